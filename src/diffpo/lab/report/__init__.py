"""Reports: runs and studies as one HTML page that opens offline (docs/studies.md)."""

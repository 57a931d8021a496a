"""A trained model behind HTTP, for clients of OpenAI's API. The only place of FastAPI, uvicorn, prometheus-client."""

"""Accelerators by name, for estimates: memory, peak arithmetic, memory bandwidth. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from diffpo.config import suggest


@dataclass(frozen=True)
class Gpu:
    """One accelerator, as its maker describes it."""

    label: str
    memory: float
    """GiB that torch sees (torch.cuda.mem_get_info), a little less than what is on the box."""
    tflops: float
    """Peak dense matrix products in bf16 with fp32 sums, TFLOP/s; half of what is advertised "with sparsity"."""
    tflops_fp32: float
    """Peak in fp32, TFLOP/s: torch's default is not TF32."""
    bandwidth: float
    """Memory bandwidth, GB/s."""
    host: bool = False
    """A CPU: no context, no caching allocator, and AdamW steps one parameter at a time."""


# Arithmetic and bandwidth: NVIDIA's data sheets (H100, H200, B200/HGX, A100, L40S, L4) and the whitepapers of GA10x,
# Ada and RTX Blackwell for the rest. Memory: the "total capacity" of torch's out-of-memory errors on such cards.
GPUS = {
    "b200": Gpu("B200 SXM, 180 GB", 178.3, 2250, 75, 7700),
    "h200": Gpu("H200 SXM, 141 GB", 139.7, 989, 67, 4800),
    "h100": Gpu("H100 SXM, 80 GB", 79.1, 989, 67, 3350),
    "h100-pcie": Gpu("H100 PCIe, 80 GB", 79.1, 756, 51, 2000),
    "a100": Gpu("A100 SXM, 80 GB", 79.1, 312, 19.5, 2039),
    "a100-40gb": Gpu("A100, 40 GB", 39.4, 312, 19.5, 1555),
    "l40s": Gpu("L40S, 48 GB", 44.4, 362, 91.6, 864),
    "rtx-a6000": Gpu("RTX A6000, 48 GB", 47.4, 155, 38.7, 768),
    "rtx-5090": Gpu("GeForce RTX 5090, 32 GB", 31.3, 209.5, 104.8, 1792),
    "rtx-4090": Gpu("GeForce RTX 4090, 24 GB", 23.5, 165.2, 82.6, 1008),
    "rtx-3090": Gpu("GeForce RTX 3090, 24 GB", 23.6, 71, 35.6, 936),
    "l4": Gpu("L4, 24 GB", 22.0, 121, 30.3, 300),
    "rtx-4080": Gpu("GeForce RTX 4080, 16 GB", 15.7, 97.5, 48.7, 717),
    "rtx-3060": Gpu("GeForce RTX 3060, 12 GB", 11.8, 25.5, 12.7, 360),
}


def find_gpu(name: str) -> Gpu:
    """The accelerator of that name; ValueError lists those there are."""
    key = name.lower().replace("_", "-").replace(" ", "-")
    if key not in GPUS:
        raise ValueError(f"gpu {name!r}: not in the table{suggest(key, GPUS)}; there are {', '.join(GPUS)}")
    return GPUS[key]

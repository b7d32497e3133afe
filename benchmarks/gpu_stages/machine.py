"""What the figures are measured on, and how fast it multiplies matrices."""

from __future__ import annotations

import platform

import torch
import transformers

from benchmarks.gpu_jobs import Job, Record
from benchmarks.gpu_time import DATASHEET, Clock


def measure(job: Job, record: Record) -> None:
    if job.device == "cuda" and not torch.cuda.is_available():
        record.put(state="no device")
        return
    name = torch.cuda.get_device_name() if job.device == "cuda" else "none (cpu)"
    promised = next((flops for part, flops in DATASHEET.items() if part in name), None)
    record.put(
        gpu=name,
        torch=torch.__version__,
        cuda=str(torch.version.cuda),
        transformers=transformers.__version__,
        python=platform.python_version(),
        datasheet_tflops=promised and promised / 1e12,
    )
    ceiling = Clock(device=job.device).ceiling(torch.bfloat16, 256 if job.tiny else 8192)
    record.put(matmul_tflops=ceiling / 1e12)

"""Which precisions run on which GPUs, under which engine, and in what they compute.

What this is: a table by architecture; pure. Who calls it: `decide/fit.py`, `sizing/`. What it must never do: guess for
an architecture that it doesn't know: a person's own type is taken at its `flops`.

Sources (read): vLLM's documentation, "Quantization, supported hardware" and "FP8 W8A8" (Ada, Hopper, Blackwell and
MI300X compute in FP8; Turing and Ampere hold FP8 weights and compute in 16 bits, by Marlin); vLLM's recipe for gpt-oss
(MXFP4 weights on Ampere by Marlin, on H100, B200 and MI300X). From memory: NVFP4 needs Blackwell's units; Turing has no
BF16; other engines than vLLM hold no FP8 weights on Ampere.
"""

from __future__ import annotations

from mainspring.facts.gpus import Gpu

_NATIVE_FP8 = frozenset({"ada", "hopper", "blackwell", "cdna3"})
_NATIVE_FP4 = frozenset({"blackwell"})
_NO_BF16 = frozenset({"volta", "turing"})
_KNOWN = frozenset({"volta", "turing", "ampere", "ada", "hopper", "blackwell", "cdna3"})
_FP8 = "FP8 needs Ada, Hopper, Blackwell or CDNA3"


def supports(gpu: Gpu, precision: str, engine: str = "vllm") -> str | None:
    """Say why weights of this precision don't run on this GPU; None when they do."""
    arch = gpu.arch.casefold().split()[0] if gpu.arch else ""
    if arch not in _KNOWN:
        return None
    if precision == "bf16" and arch in _NO_BF16:
        return f"{gpu.name} ({gpu.arch}) has no BF16: use `fp16`"
    if precision == "fp8" and arch not in _NATIVE_FP8:
        # vLLM holds the weights in FP8 and computes in 16 bits; others refuse.
        return None if engine == "vllm" and arch == "ampere" else f"{gpu.name} is {gpu.arch}: {_FP8}; use `int8`"
    if precision == "fp4" and arch not in _NATIVE_FP4:
        return f"{gpu.name} is {gpu.arch}: NVFP4 needs Blackwell; `int4` is as small"
    if precision == "mxfp4" and arch in _NO_BF16:
        return f"{gpu.name} is {gpu.arch}: MXFP4 needs Ampere or newer; `int4` is as small"
    return None


def supports_cache(gpu: Gpu, precision: str) -> str | None:
    """Say why a KV cache of this precision doesn't run on this GPU; None when it does."""
    if precision in ("fp16", "bf16"):
        return supports(gpu, precision)
    arch = gpu.arch.casefold().split()[0] if gpu.arch else ""
    if precision == "fp8":
        return f"{gpu.name} is {gpu.arch}: {_FP8}" if arch in _KNOWN - _NATIVE_FP8 else None
    return f"a KV cache in `{precision}`: engines have `fp16`, `bf16` and `fp8`"


def computes(gpu: Gpu, precision: str) -> str:
    """The precision in which the GPU multiplies, for weights held in `precision`: below its own units, 16 bits."""
    if precision in ("mxfp4", "fp4"):
        return "fp4" if "fp4" in gpu.flops else "fp16"
    if precision == "int4":
        return "fp16"
    if precision in ("bf16", "fp32"):
        return precision if precision in gpu.flops else "fp16"
    return precision if precision in gpu.flops else "fp16"

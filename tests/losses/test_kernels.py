"""The Triton kernels give what the plain operations give. Where there is no GPU, Triton's interpreter runs them."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

COMPARED = """
import torch
from torch.nn import functional
import losses
from losses.engine import kernels, tiles

torch.manual_seed(0)
calls = []
for name in ("exp_sums", "weigh_"):
    def counted(*args, plain=getattr(kernels, name), name=name):
        calls.append(name)
        return plain(*args)
    setattr(kernels, name, counted)
tiles.CPU_TILE = (40, 150)
image, texts = (functional.normalize(torch.randn(*s), dim=-1).requires_grad_() for s in ((61, 16), (61, 3, 16)))
scale, ids = torch.tensor(20.0, requires_grad=True), torch.randint(0, 50, (61,))

def result():
    value = losses.one_to_k_loss(image, texts, scale, torch.arange(183).view(61, 3) % 5 > 0, image_ids=ids)
    return [value, *torch.autograd.grad(value, [image, texts, scale])]

ours = result()
assert {"exp_sums", "weigh_"} <= set(calls), calls
tiles._kernels = lambda logits: None
for kernel, plain in zip(ours, result(), strict=True):
    torch.testing.assert_close(kernel, plain, rtol=1e-5, atol=1e-7)
print("same")
"""


def test_the_kernels_give_what_the_operations_give():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run([sys.executable, "-c", COMPARED], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "same", run.stderr[-2000:]

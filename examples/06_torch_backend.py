"""torch.compile with this compiler as its backend: one program per graph for all sizes, eager beside it."""

from statistics import median
from time import perf_counter, sleep

import torch
from torch import nn

CNN = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
).eval()  # fmt: skip
LAYER = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)
TRANSFORMER = nn.TransformerEncoder(LAYER, 4, enable_nested_tensor=False).eval()


def seconds(call, x):
    begin = perf_counter()
    call(x)
    return perf_counter() - begin


@torch.no_grad()
def compare(name, module, size):
    compiled = torch.compile(module, backend="deepseek", dynamic=True)
    inputs = [torch.randn(batch, *size) for batch in (2, 4, 7)]
    difference = max((compiled(x) - module(x)).abs().max().item() for x in inputs)
    times = []
    for call in (compiled, module):  # apart: eager's threads spin for a while after each call
        sleep(0.5)
        times.append(median(seconds(call, inputs[1]) for _ in range(25)))
    ours, eager = times
    gain = eager / ours
    print(f"{name}: {ours * 1e3:.1f} ms, {gain:.2f} times as fast as eager, differs by {difference:.0e}")
    if gain < 1:
        print("  slower here: deepseek.compile(module, (x,)).explain() says which kernels take the time")


compare("CNN", CNN, (3, 64, 64))
compare("transformer", TRANSFORMER, (100, 256))

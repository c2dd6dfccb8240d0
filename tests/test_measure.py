"""Test measure: bytes of live tensors, saved tensors, gradients and optimizer states."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from course_utils.machine import measure


def test_the_meter_counts_live_tensors_and_subtracts_freed_ones():
    with measure.TensorMeter() as meter:
        first = torch.ones(1000)
        assert meter.now == 4000
        second = first.double()
        assert meter.now == 12_000
        del second
        assert meter.now == 4000
    assert meter.peak == 12_000


def test_each_operation_belongs_to_the_phase_that_was_begun_last():
    with measure.TensorMeter() as meter:
        kept = [torch.ones(1000)]
        meter.begin("a")
        kept.append(kept[0] + 1)
        meter.begin("b")
        kept.append(kept[0] + 2)
        meter.begin("a")
        kept.append(kept[0] + 3)
    assert meter.phases == {"b": [12_000], "a": [8000, 16_000]}
    assert meter.trace[-3:] == [8000, 12_000, 16_000]


@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_loss_and_the_backward_pass_of_each_layer_are_phases(checkpointing):
    layers = [nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(3)]
    head = nn.Linear(64, 1000)
    with measure.TensorMeter() as meter, measure.backward_marked(meter, head, layers):
        meter.begin("forward")
        x = torch.ones(8, 64)
        for layer in layers:
            x = checkpoint(layer, x, use_reentrant=False) if checkpointing else layer(x)
        head(x).logsumexp(-1).sum().backward()
    names = ["forward", "loss", *(f"backward of layer {n}" for n in (3, 2, 1))]
    assert list(meter.phases) == names
    assert sum(map(len, meter.phases.values())) == len(meter.trace)
    # The logits need 8 · 1000 · 4 bytes.
    assert max(meter.phases["forward"]) < 32_000 < max(meter.phases["loss"])
    # The gradients of a layer, 65 · 64 · 4 bytes, remain. Its output, 8 · 64 · 4 bytes, is freed.
    ends = [meter.phases[name][-1] for name in names[2:]]
    assert ends[1] - ends[0] == 16_640 - 2048
    assert not head._forward_pre_hooks and not layers[0]._forward_hooks


def test_views_and_in_place_results_are_not_counted_again():
    before = torch.ones(100)
    with measure.TensorMeter() as meter:
        view = before.view(10, 10).t()
        view.add_(1)
        made = torch.zeros(100)
        made[3:].mul_(2)
    # Only `made` has a new storage.
    assert meter.peak == 400


def test_saved_tensors_are_counted_once_and_weights_not_at_all():
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.SiLU(), nn.Linear(16, 4, bias=False))
    x = torch.ones(5, 8)
    with measure.saved_for_backward(model) as saved:
        model(x).sum()
    # The saved tensors are the input, the input of SiLU and the output of SiLU.
    assert saved.size == 4 * 5 * (8 + 16 + 16)
    assert saved.tensors == 3


def test_gradients_and_optimizer_states_are_counted_exactly():
    model = nn.Linear(10, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    assert measure.gradient_bytes(model) == measure.optimizer_bytes(optimizer) == 0
    model(torch.ones(2, 10)).sum().backward()
    optimizer.step()
    assert measure.gradient_bytes(model) == 33 * 4
    assert measure.optimizer_bytes(optimizer) == 2 * 33 * 4
    model.zero_grad(set_to_none=True)
    assert measure.gradient_bytes(model) == 0

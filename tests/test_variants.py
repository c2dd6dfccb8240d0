"""Test the tiny Llama's trials: formats, variants of LoRA, and what a trial measures."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from course_utils import variants
from course_utils.models.llama import adapter_of, linears
from course_utils.variants import FORMATS, TARGETS, VARIANTS, WAYS, Trial, prepare, rounded, run

pytestmark = pytest.mark.usefixtures("frozen_imports")


@pytest.fixture(autouse=True, scope="module")
def quickly():
    """Pretrain for 30 steps and fine-tune for 20, so that each trial takes about a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "PRETRAINING_STEPS", 30)
        patch.setattr(variants, "STEPS", 20)
        variants.pretrained.cache_clear()
        yield
    variants.pretrained.cache_clear()


def weights(model):
    return [layer.weight.detach().clone() for layer in linears(model)]


@pytest.mark.full
@pytest.mark.parametrize("way", WAYS)
def test_every_way_learns_headlines(way):
    trial = Trial(way, learning_rate=2e-3 if way in ("full", "rsLoRA", "PiSSA", "LoRA+") else 8e-3)
    before, after = variants.losses(prepare(trial)), run(trial)
    assert after["validation"] < before["validation"] - 0.05
    assert after["target"] < before["target"] - 0.05


@pytest.fixture
def few_steps(monkeypatch):
    """Fine-tune for two steps, and measure the losses on short texts."""
    monkeypatch.setattr(variants, "STEPS", 2)
    monkeypatch.setattr(variants, "MEASURED", 1000)


@pytest.mark.full
def test_a_trial_is_repeatable_and_leaves_the_pretrained_model_unchanged(few_steps):
    before, state = weights(variants.pretrained()), torch.random.get_rng_state()
    assert run(Trial()) == run(Trial()) != run(Trial(seed=1))
    assert all(map(torch.equal, before, weights(variants.pretrained())))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_batch_of_another_size_is_trained_on():
    sizes = []

    class Counts(torch.nn.Linear):
        def forward(self, input_ids):
            sizes.append(len(input_ids))
            logits = super().forward(torch.ones(*input_ids.shape, 1))
            return SimpleNamespace(logits=logits)

    model, text = Counts(1, 256), torch.arange(100)
    for batch in ((), (4,)):
        variants.train(model, text, torch.optim.AdamW(model.parameters()), 2, 0, *batch)
    assert sizes == [16, 16, 4, 4]


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_those_of_bitsandbytes_and_int4_has_15_levels(name):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(128, 64, generator=torch.Generator().manual_seed(0))
    ours = rounded(weight, name)
    if name == "int4":
        levels = ours.view(-1, 64) / weight.view(-1, 64).abs().amax(1, keepdim=True) * 7
        assert (levels - levels.round()).abs().max() < 1e-5
    else:
        kind, double = name[:3], name.endswith("dq")
        codes = quantize_4bit(weight, quant_type=kind, compress_statistics=double)
        assert torch.equal(ours, dequantize_4bit(*codes))
    assert 0.005 < (ours - weight).square().mean() < 0.02


@pytest.mark.full
@pytest.mark.parametrize("way", [*FORMATS, "lora", *VARIANTS])
def test_only_the_weights_of_a_4_bit_format_are_rounded(way):
    base, pretrained = prepare(Trial(way)).get_base_model(), weights(variants.pretrained())
    stored = [layer.base_layer.weight for layer in linears(base)]
    name = "nf4" if way == "LoftQ" else way
    expected = [rounded(w, name) for w in pretrained] if name in FORMATS else pretrained
    # PiSSA moves the largest singular values from the weights to the adapters.
    assert all(map(torch.equal, stored, expected)) != (way == "PiSSA")


def test_untrained_adapters_change_nothing(few_steps):
    expected = variants.losses(variants.pretrained())
    for way in ("lora", "rsLoRA", "DoRA", "PiSSA", "LoRA+"):
        assert variants.losses(prepare(Trial(way))) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("alpha", [8, 16])
def test_loftq_starts_with_the_best_correction_of_the_rounding(alpha):
    """The rest has the singular values after the first 8, and peft computes the same product."""
    from peft.utils.loftq_utils import _low_rank_decomposition

    model = prepare(Trial("LoftQ", alpha=alpha)).get_base_model()
    for layer, original in zip(linears(model), weights(variants.pretrained()), strict=True):
        A, B, scale = adapter_of(layer)
        error, correction = original - layer.base_layer.weight, scale * B @ A
        sizes = torch.linalg.svdvals(error)
        rest = torch.linalg.svdvals(error - correction)
        assert torch.allclose(rest[: len(sizes) - 8], sizes[8:], atol=1e-5)
        theirs = _low_rank_decomposition(error, reduced_rank=8)
        assert torch.allclose(theirs["L"] @ theirs["R"], correction, atol=1e-5)


def test_lora_plus_trains_b_with_a_higher_rate():
    trial = Trial("LoRA+", learning_rate=1e-3)
    model = prepare(trial)
    rates = {
        id(p): group["lr"]
        for group in variants.make_optimizer(model, trial).param_groups
        for p in group["params"]
    }
    by_matrix = {"lora_A": set(), "lora_B": set()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            by_matrix[name.split(".")[-3]].add(rates[id(parameter)])
    assert by_matrix == {"lora_A": {1e-3}, "lora_B": {1e-3 * variants.LORA_PLUS_RATIO}}


def test_trained_parameters_are_counted(few_steps):
    full = sum(p.numel() for p in variants.pretrained().parameters())
    assert run(Trial("full", 1e-3))["trained"] == full
    everywhere, two = run(Trial()), run(Trial(targets="q and v", rank=34))
    assert everywhere["trained"] == two["trained"] < full / 10
    assert set(TARGETS) == {"all-linear", "q and v"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"way": "qlora"}, "way must be 'full', 'lora', .*, got 'qlora'"),
        ({"targets": "all"}, "targets must be 'all-linear' or 'q and v'"),
        ({"rank": 0}, "rank must be"),
        ({"alpha": 0}, "alpha must be"),
        ({"learning_rate": 0}, "learning_rate must be above 0, got 0"),
    ],
)
def test_wrong_settings_raise_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(Trial(), **changes)

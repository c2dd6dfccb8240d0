"""Test the training loop and its checkpoints on a tiny random Llama in float32."""

import json
import math
from dataclasses import replace

import pytest
import torch
from peft.tuners.lora import LoraLayer

from course_utils.machine.validation import CourseError
from course_utils.sft import collate
from course_utils.training import (
    Recipe,
    TrainingError,
    answer_loss,
    attach_adapters,
    checkpoints,
    finetune,
    load_adapters,
    loop,
    make_optimizer,
    step,
    strength,
    temporary_adapters,
    trainable_parameters,
)
from tests.conftest import make_model, random_examples

pytestmark = pytest.mark.usefixtures("frozen_imports")

RECIPE = Recipe(
    micro_batch_size=2,
    accumulation=2,
    learning_rate=1e-2,
    max_steps=7,
    dropout=0.1,
    compute_dtype=torch.float32,
)


@pytest.fixture(scope="module")
def features():
    return random_examples(10, seed=3)


@pytest.fixture(scope="module")
def make_run(tokenizer, features):
    """Return a function that trains a new model, unless a model is given, and returns both."""

    def make_run(folder, model=None, recipe=RECIPE, data=features, **options):
        model = model or attach_adapters(make_model(), recipe)
        run = finetune(model, tokenizer, data, recipe=recipe, output_dir=folder, **options)
        return model, run

    return make_run


@pytest.fixture(scope="module")
def uninterrupted(make_run, tmp_path_factory):
    """The model and the run after 7 steps with RECIPE."""
    return make_run(tmp_path_factory.mktemp("uninterrupted"))


@pytest.fixture
def train(make_run, tmp_path):
    """Return `make_run` for folders of this test."""
    return lambda folder="run", **options: make_run(tmp_path / folder, **options)


def losses(run):
    return [record["loss"] for record in run.history]


def interrupt_at(step):
    def on_step(history):
        if len(history) == step:
            raise KeyboardInterrupt

    return on_step


# -- adapters --------------------------------------------------------------------------------------


def test_only_adapters_are_trainable_and_they_are_float32():
    model = attach_adapters(make_model().bfloat16(), Recipe(rank=8))
    trainable = trainable_parameters(model)
    # In each layer, q and o have 64×64 parameters, k and v 64×32, gate, up and down 64×128.
    per_layer = 8 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    assert sum(p.numel() for p in trainable.values()) == 2 * per_layer
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trainable.items())
    assert all(p.eq(0).all() for name, p in trainable.items() if "lora_B" in name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        # In `load_adapters`, peft would keep the alpha of the old adapters.
        ("default", r"already has an adapter 'default'.*not in \['default'\]"),
        ("", "must be text without a dot, got"),
        ("a.b", "must be text without a dot, got"),
    ],
)
def test_the_name_of_an_adapter_is_new_text_without_a_dot(uninterrupted, name, message):
    model = attach_adapters(make_model(), replace(RECIPE, alpha=64))
    with pytest.raises(ValueError, match=message):
        attach_adapters(model, RECIPE, name=name)
    with pytest.raises(ValueError, match=message):
        load_adapters(model, uninterrupted[1].adapters, name)


def test_the_base_model_inside_a_peft_model_gets_no_adapters(uninterrupted):
    model = attach_adapters(make_model(), RECIPE)
    with pytest.raises(ValueError, match=r"part of a PeftModel with the adapters \['default'\]"):
        attach_adapters(model.get_base_model(), RECIPE, name="second")
    assert list(model.peft_config) == ["default"]
    again = attach_adapters(model.unload(), RECIPE)
    assert list(again.peft_config) == ["default"]


@torch.no_grad()
def test_strength_0_is_the_base_model_and_strength_1_the_tuned_model(uninterrupted, features):
    _, run = uninterrupted
    ids = collate(features, 0)["input_ids"]
    base = make_model()(ids).logits
    model = load_adapters(make_model(), run.adapters).eval()
    tuned = model(ids).logits
    assert not torch.equal(tuned, base)
    for factor, expected in ((0, base), (1, tuned)):
        with strength(model, factor):
            assert torch.equal(model(ids).logits, expected)
    assert torch.equal(model(ids).logits, tuned)


def test_temporary_adapters_leave_the_base_model_as_it_was():
    model = make_model().eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with temporary_adapters(model, RECIPE) as tuned:
        assert tuned.training and trainable_parameters(tuned)
    assert not hasattr(model, "peft_config") and not model.training
    assert not model(torch.tensor([[1, 2]])).logits.requires_grad
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_strength_scales_all_adapters_and_is_restored_after_an_error():
    model = attach_adapters(make_model(), RECIPE)
    attach_adapters(model, replace(RECIPE, alpha=3), name="second")
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    before = [dict(layer.scaling) for layer in layers]

    def scale_and_fail():
        with strength(model, 0.3):
            assert layers[0].scaling == {name: 0.3 * s for name, s in before[0].items()}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scale_and_fail()
    assert [layer.scaling for layer in layers] == before


@pytest.mark.full
def test_two_adapters_of_one_base_model_are_trained_and_loaded_independently(train, features):
    model, first = train()
    before = {n: p.detach().clone() for n, p in model.named_parameters() if ".default." in n}
    other = replace(RECIPE, seed=1)
    attach_adapters(model, other, name="second")
    assert all(".second." in name for name in trainable_parameters(model))
    _, second = train("second", model=model, recipe=other)
    for name, p in model.named_parameters():
        assert name not in before or torch.equal(p, before[name])
    base = load_adapters(make_model(), first.adapters, "one")
    load_adapters(base, second.adapters, "two")
    ids = collate(features, 0)["input_ids"]
    outputs = {}
    for name, trained in {"one": "default", "two": "second"}.items():
        base.set_adapter(name)
        model.set_adapter(trained)
        outputs[name] = base.eval()(ids).logits
        assert torch.equal(outputs[name], model.eval()(ids).logits)
    assert not torch.allclose(outputs["one"], outputs["two"])


# -- the loss and the loop -------------------------------------------------------------------------


def test_answer_loss_equals_the_loss_of_transformers(model, features):
    batch = collate(features[:4], 0)
    count = (batch["labels"][:, 1:] != -100).sum()
    torch.testing.assert_close(answer_loss(model, batch) / count, model(**batch).loss)


def test_padding_does_not_change_the_loss(model, features):
    narrow, wide = collate(features[:3], 2), collate(features[:3], 2, multiple=64)
    assert wide["labels"].shape[1] > narrow["labels"].shape[1]
    torch.testing.assert_close(answer_loss(model, narrow), answer_loss(model, wide))


@pytest.mark.parametrize(
    ("changes", "options", "equal"),
    [
        # There is no checkpoint yet, so the run begins with the first step.
        ({}, {"resume": True}, True),
        ({"seed": 1}, {}, False),
        ({"gradient_checkpointing": False}, {}, True),
        ({"validate_every": 1}, {"validation": True}, True),
    ],
)
def test_only_the_seed_changes_the_losses(train, features, uninterrupted, changes, options, equal):
    if "validation" in options:
        options = {"validation": features}
    _, run = train(recipe=replace(RECIPE, **changes), **options)
    assert (losses(run) == pytest.approx(losses(uninterrupted[1]), rel=1e-6)) == equal


def test_accumulation_does_not_change_the_losses(train):
    runs = []
    for size, accumulation in [(8, 1), (4, 2), (1, 8)]:
        sizes = {"micro_batch_size": size, "accumulation": accumulation}
        _, run = train(f"{size}", recipe=replace(RECIPE, dropout=0.0, max_steps=3, **sizes))
        runs.append(run)
    for other in runs[1:]:
        torch.testing.assert_close(losses(runs[0]), losses(other), rtol=1e-4, atol=0)


def test_full_fine_tuning_uses_the_same_loop(train):
    model, run = train(model=make_model().requires_grad_(True), recipe=replace(RECIPE, max_steps=2))
    assert len(trainable_parameters(model)) == len(list(model.parameters()))
    assert run.finished and (run.adapters / "model.safetensors").is_file()


def test_the_validation_loss_is_the_mean_over_answer_tokens(train, features):
    model, run = train(recipe=replace(RECIPE, validate_every=3), validation=features[:5])
    measured = {r["step"]: r["validation_loss"] for r in run.history if "validation_loss" in r}
    assert set(measured) == {3, 6, 7}
    batch = collate(features[:5], 0)
    with torch.no_grad():
        expected = answer_loss(model.eval(), batch) / (batch["labels"][:, 1:] != -100).sum()
    assert measured[7] == pytest.approx(expected.item(), rel=1e-5)
    table = run.table()
    assert list(table.index) == list(range(1, 8))
    columns = ["loss", "grad_norm", "tokens", "learning_rate", "memory", "tokens_per_s"]
    assert set(table) == {*columns, "validation_loss"}
    assert table["tokens"].iloc[0] > 0 and (table["memory"] > 0).all()
    assert json.loads(json.dumps(run.history)) == run.history


def test_the_learning_rate_rises_and_then_decays(train):
    recipe = replace(RECIPE, max_steps=10, warmup=0.3)
    rates = [r["learning_rate"] for r in train(recipe=recipe)[1].history]
    assert rates[0] == 0 and max(rates) == rates[3] == recipe.learning_rate
    assert rates[3:] == sorted(rates[3:], reverse=True) and rates[-1] < 0.2 * recipe.learning_rate


# -- resuming a run --------------------------------------------------------------------------------


# The 10 examples make 3 steps in each epoch.
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_run(
    train, features, uninterrupted, capsys, stop
):
    _, interrupted = train(on_step=interrupt_at(stop))
    assert not interrupted.finished and len(interrupted.history) == stop
    printed = capsys.readouterr().out
    assert f"after step {stop} of 7" in printed and str(interrupted.adapters.parent) in printed
    # How often a run is saved and validated may change.
    often = replace(RECIPE, save_every=1, validate_every=1)
    model, resumed = train(recipe=often, resume=True, validation=features[:2])
    assert resumed.finished and losses(resumed) == losses(uninterrupted[1])
    expected = trainable_parameters(uninterrupted[0])
    for name, p in trainable_parameters(model).items():
        assert torch.equal(p, expected[name]), name


def test_a_finished_run_is_resumed_unchanged_and_only_with_its_recipe(train):
    recipe = replace(RECIPE, max_steps=2)
    _, first = train(recipe=recipe)
    _, again = train(recipe=recipe, resume=True)
    assert losses(again) == losses(first) and again.finished and again.adapters == first.adapters
    with pytest.raises(TrainingError, match=r"learning_rate was 0\.01, is 0\.5"):
        train(recipe=replace(recipe, learning_rate=0.5), resume=True)


def test_a_run_that_is_interrupted_during_validation_can_be_resumed(
    train, features, uninterrupted, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "mean_loss", interrupt)
    recipe = replace(RECIPE, validate_every=3)
    _, interrupted = train(recipe=recipe, validation=features)
    assert len(interrupted.history) == 3 and not interrupted.finished
    monkeypatch.undo()
    _, resumed = train(recipe=recipe, validation=features, resume=True)
    assert losses(resumed) == losses(uninterrupted[1])


def test_a_new_run_replaces_the_checkpoints_of_an_earlier_run(train, tmp_path):
    train(recipe=replace(RECIPE, max_steps=3))
    _, run = train(recipe=replace(RECIPE, max_steps=2))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["step-000002"]
    assert run.adapters.parent.name == "step-000002"


# -- failures --------------------------------------------------------------------------------------


def change_loss(monkeypatch, first, change):
    """Apply `change` to the losses of all micro-batches from optimizer step `first` on."""
    calls = []

    def changed(model, batch):
        calls.append(1)
        loss = answer_loss(model, batch)
        return change(loss) if len(calls) > RECIPE.accumulation * (first - 1) else loss

    monkeypatch.setattr(step, "answer_loss", changed)


def test_a_loss_that_is_not_finite_ends_the_run_and_saves_the_last_good_adapters(
    train, monkeypatch, tmp_path
):
    change_loss(monkeypatch, 4, lambda loss: loss * math.inf)
    with pytest.raises(TrainingError, match=r"stopped at step 4.*last good adapters are in"):
        train()
    monkeypatch.undo()
    expected, _ = train("good", on_step=interrupt_at(3))
    reloaded = load_adapters(make_model(), tmp_path / "run" / "step-000003" / "adapters")
    for name, p in trainable_parameters(expected).items():
        assert torch.equal(p, dict(reloaded.named_parameters())[name])


def test_a_gradient_that_is_not_finite_ends_the_run(train, monkeypatch):
    # The gradient of the square root at 0 is infinite.
    change_loss(monkeypatch, 2, lambda loss: loss + 0 * (loss - loss.detach()).sqrt())
    with pytest.raises(TrainingError, match="gradient norm is nan"):
        train()


def test_a_full_disk_keeps_the_last_complete_checkpoint(
    train, uninterrupted, monkeypatch, tmp_path
):
    save, calls = checkpoints.save_file, []

    def fail_the_second_time(tensors, path):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", fail_the_second_time)
    message = r"No space left.*last good adapters are in .*step-000002"
    with pytest.raises(TrainingError, match=message):
        train(recipe=replace(RECIPE, save_every=2))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["step-000002"]
    monkeypatch.undo()
    assert losses(train(resume=True)[1]) == losses(uninterrupted[1])


def test_an_incomplete_checkpoint_is_ignored(train, uninterrupted, tmp_path):
    train(recipe=replace(RECIPE, save_every=3), on_step=interrupt_at(4))
    (tmp_path / "run" / "step-000006.partial").mkdir()
    # This checkpoint has no progress.json.
    (tmp_path / "run" / "step-000007").mkdir()
    assert losses(train(resume=True)[1]) == losses(uninterrupted[1])


def test_training_without_examples_parameters_or_adapters_raises_an_error(train, tmp_path):
    with pytest.raises(ValueError, match="no training examples"):
        train(data=[])
    with pytest.raises(ValueError, match="no trainable parameter: call attach_adapters"):
        train(model=make_model().requires_grad_(False))
    (tmp_path / "adapter_config.json").write_text("{}")
    for folder in (tmp_path / "nowhere", tmp_path):
        model = make_model()
        with pytest.raises(CourseError, match=r"no adapters in .*and adapter_model\.safetensors"):
            load_adapters(model, folder)
        assert not any("lora_" in name for name, _ in model.named_parameters())
    merged = attach_adapters(make_model(), RECIPE)
    merged.merge_adapter()
    for model in (make_model(), merged):
        with pytest.raises(ValueError, match="has no adapters, or they are"), strength(model, 0.5):
            pass
    for factor in (-0.1, math.nan, math.inf, True, "1", None):
        with (
            pytest.raises(ValueError, match="factor must be a number of at least 0"),
            strength(attach_adapters(make_model(), RECIPE), factor),
        ):
            pass


# -- the recipe and the optimizer ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank must be a whole number of at least 1, got 0"),
        ({"micro_batch_size": 1.5}, "micro_batch_size must be a whole number"),
        ({"max_steps": 0}, "max_steps"),
        ({"learning_rate": 0}, "learning_rate must be above 0, got 0"),
        ({"max_grad_norm": -1}, "max_grad_norm must be above 0, got -1"),
        ({"warmup": 1}, "warmup is a share: it must be at least 0 and below 1, got 1"),
        ({"dropout": -0.1}, "dropout is a share"),
        ({"save_every": 0}, "save_every must be a whole number"),
        ({"validate_every": 2.5}, "validate_every must be a whole number"),
    ],
)
def test_a_recipe_rejects_values_outside_their_range(change, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**change)


def test_the_number_of_steps_includes_the_incomplete_last_batch():
    recipe = Recipe(micro_batch_size=4, accumulation=2, epochs=3)
    assert [recipe.steps(n) for n in (1, 8, 9)] == [3, 3, 6]
    assert replace(recipe, max_steps=5).steps(1000) == 5


def test_the_optimizer_is_paged_and_has_8_bit_states_only_on_cuda(monkeypatch):
    import bitsandbytes as bnb

    class OnCuda:
        class device:
            type = "cuda"

    made = {}
    monkeypatch.setattr(
        bnb.optim, "PagedAdamW8bit", lambda parameters, **k: made.update(k) or "paged"
    )
    monkeypatch.setattr(step, "trainable_parameters", lambda model: {"p": OnCuda()})
    assert make_optimizer(None, Recipe(learning_rate=3e-4)) == "paged"
    assert made == {"lr": 3e-4, "weight_decay": 0.0}
    monkeypatch.undo()
    assert type(make_optimizer(attach_adapters(make_model(), RECIPE), RECIPE)) is torch.optim.AdamW

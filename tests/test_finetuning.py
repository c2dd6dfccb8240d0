"""The loop is right, repeatable, and loses nothing; on a tiny random Llama in float32."""

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from course_utils.sft import collate, encode_all
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
    trainable_parameters,
)
from course_utils.validation import CourseError
from tests.conftest import make_model

RECIPE = Recipe(
    micro_batch_size=2,
    accumulation=2,
    learning_rate=1e-2,
    max_steps=7,
    dropout=0.1,
    compute_dtype=torch.float32,
)


@pytest.fixture(scope="module")
def features(tokenizer):
    towns = ["Tarn", "Oskil", "Bray", "Halvik", "Moor", "Denna", "Quill", "Sarre", "Ulm", "Vey"]
    chats = [
        [
            {"role": "user", "content": f"Where is {t}" + "?" * n},
            {"role": "assistant", "content": f"In {t}ia" + "." * (n % 3)},
        ]
        for n, t in enumerate(towns)
    ]
    return encode_all(chats, tokenizer)


@pytest.fixture
def train(tokenizer, features, tmp_path):
    """finetune() with this file's defaults; makes a new model for each call unless given one."""

    def run(model=None, recipe=RECIPE, folder="run", data=features, **options):
        model = model or attach_adapters(make_model(), recipe)
        options["output_dir"] = tmp_path / folder
        return model, finetune(model, tokenizer, data, recipe=recipe, **options)

    return run


def losses(run):
    return [record["loss"] for record in run.history]


def interrupt_at(step):
    def on_step(history):
        if len(history) == step:
            raise KeyboardInterrupt

    return on_step


def test_only_the_adapters_are_trainable_and_float32():
    model = attach_adapters(make_model().bfloat16(), Recipe(rank=8))
    trainable = trainable_parameters(model)
    # per layer: q and o 64×64, k and v 64×32, gate and up 64×128, down 128×64
    per_layer = 8 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    assert sum(p.numel() for p in trainable.values()) == 2 * per_layer
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trainable.items())
    assert all(p.eq(0).all() for name, p in trainable.items() if "lora_B" in name)


def test_targets_and_rank_follow_the_recipe():
    model = attach_adapters(make_model(), Recipe(rank=3, targets=("q_proj",)))
    shapes = {tuple(p.shape) for p in trainable_parameters(model).values()}
    assert shapes == {(3, 64), (64, 3)}


def test_answer_loss_equals_the_librarys_loss_over_all_logits(model, features):
    batch = collate(features[:4], 0)
    count = (batch["labels"][:, 1:] != -100).sum()
    torch.testing.assert_close(answer_loss(model, batch) / count, model(**batch).loss)


def test_padding_changes_no_loss(model, features):
    narrow, wide = collate(features[:3], 2), collate(features[:3], 2, multiple=64)
    assert wide["labels"].shape[1] > narrow["labels"].shape[1]
    torch.testing.assert_close(answer_loss(model, narrow), answer_loss(model, wide))


def test_accumulation_changes_memory_and_nothing_else(train):
    shapes = [(8, 1), (4, 2), (1, 8)]
    runs = [
        train(
            recipe=replace(RECIPE, micro_batch_size=m, accumulation=a, dropout=0.0), folder=f"{m}"
        )[1]
        for m, a in shapes
    ]
    for other in runs[1:]:
        torch.testing.assert_close(losses(runs[0]), losses(other), rtol=1e-4, atol=0)


def test_the_loss_falls(train):
    _, run = train(recipe=replace(RECIPE, max_steps=60))
    assert run.history[-1]["loss"] < 0.5 * run.history[0]["loss"]


def test_same_seed_same_losses_other_seed_others(train):
    first, second = train(folder="a")[1], train(folder="b")[1]
    assert losses(first) == losses(second)
    other = replace(RECIPE, seed=1)
    assert losses(train(recipe=other, folder="c")[1]) != losses(first)


@pytest.mark.parametrize("stop", [1, 2, 3, 5])  # 10 examples make 3 steps an epoch
def test_resumed_run_has_exactly_the_losses_of_an_uninterrupted_one(train, stop):
    whole_model, whole = train(folder="whole")
    _, part = train(folder="part", on_step=interrupt_at(stop))
    assert not part.finished and len(part.history) == stop
    model, resumed = train(folder="part", resume=True)
    assert resumed.finished and losses(resumed) == losses(whole)
    for name, p in trainable_parameters(model).items():
        assert torch.equal(p, trainable_parameters(whole_model)[name]), name


def test_an_interrupt_keeps_the_adapters_and_says_where(train, capsys):
    _, run = train(on_step=interrupt_at(4))
    assert "after step 4 of 7" in capsys.readouterr().out
    assert (run.adapters / "adapter_model.safetensors").is_file()


def test_resuming_a_finished_run_changes_nothing(train):
    _, whole = train()
    _, again = train(resume=True)
    assert losses(again) == losses(whole) and again.finished and again.adapters == whole.adapters


def test_resuming_another_recipe_is_refused_and_says_what_differs(train):
    train()
    with pytest.raises(TrainingError, match="learning_rate was 0.01, is 0.5"):
        train(recipe=replace(RECIPE, learning_rate=0.5), resume=True)


def test_another_cadence_may_be_resumed(train, features):
    _, whole = train(folder="whole")
    train(on_step=interrupt_at(4))
    often = replace(RECIPE, save_every=1, validate_every=1)
    _, resumed = train(recipe=often, resume=True, validation=features[:2])
    assert losses(resumed) == losses(whole)


def test_an_interrupted_validation_loses_no_step(train, features, monkeypatch):
    _, whole = train(folder="whole")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "mean_loss", interrupted)
    recipe = replace(RECIPE, validate_every=3)
    _, part = train(recipe=recipe, validation=features)
    assert len(part.history) == 3 and not part.finished
    monkeypatch.undo()
    _, resumed = train(recipe=recipe, validation=features, resume=True)
    assert losses(resumed) == losses(whole)


def test_resume_without_a_checkpoint_starts_at_the_beginning(train):
    assert losses(train(resume=True)[1]) == losses(train(folder="other")[1])


def test_a_new_run_replaces_the_checkpoints_of_the_last_one(train, tmp_path):
    train(recipe=replace(RECIPE, max_steps=9))
    _, run = train(recipe=replace(RECIPE, max_steps=2))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["step-000002"]
    assert run.adapters.parent.name == "step-000002"


def test_adapters_reload_with_equal_logits(train, features):
    model, run = train()
    ids = collate(features, 0)["input_ids"]
    reloaded = load_adapters(make_model(), run.adapters)
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, reloaded.eval()(ids).logits)
        assert not torch.allclose(make_model()(ids).logits, reloaded(ids).logits, atol=1e-3)


def test_two_adapters_share_one_base(train, features):
    model, first = train()
    before = {n: p.detach().clone() for n, p in model.named_parameters() if ".default." in n}
    other = replace(RECIPE, seed=1)
    attach_adapters(model, other, name="second")
    assert all(".second." in name for name in trainable_parameters(model))
    _, second = train(model=model, recipe=other, folder="second")
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


def test_an_adapter_name_is_not_used_twice():
    model = attach_adapters(make_model(), RECIPE)
    with pytest.raises(ValueError, match=r"already has an adapter 'default'"):
        attach_adapters(model, RECIPE)


def test_full_fine_tuning_uses_the_same_loop(train):
    model, run = train(model=make_model().requires_grad_(True))
    assert len(trainable_parameters(model)) == len(list(model.parameters()))
    assert run.finished and (run.adapters / "model.safetensors").is_file()


def test_validation_loss_is_the_mean_over_answer_tokens(train, features):
    model, run = train(recipe=replace(RECIPE, validate_every=3), validation=features[:5])
    measured = {r["step"]: r["validation_loss"] for r in run.history if "validation_loss" in r}
    assert set(measured) == {3, 6, 7}
    batch = collate(features[:5], 0)
    with torch.no_grad():
        expected = answer_loss(model.eval(), batch) / (batch["labels"][:, 1:] != -100).sum()
    assert measured[7] == pytest.approx(expected.item(), rel=1e-5)


def test_validating_changes_no_training_loss(train, features):
    plain = train(folder="plain")[1]
    recipe = replace(RECIPE, validate_every=1)
    validated = train(recipe=recipe, folder="validated", validation=features)[1]
    assert losses(plain) == losses(validated)


def test_history_records_what_a_student_needs(train, features):
    _, run = train(validation=features)
    table = run.table()
    assert list(table.index) == list(range(1, 8))
    assert set(table) == {
        *(
            "loss",
            "grad_norm",
            "tokens",
            "learning_rate",
            "memory",
            "tokens_per_s",
            "validation_loss",
        )
    }
    assert table["tokens"].iloc[0] > 0 and (table["memory"] > 0).all()
    assert json.loads(json.dumps(run.history)) == run.history


def test_learning_rate_warms_up_and_decays(train):
    recipe = replace(RECIPE, max_steps=10, warmup=0.3)
    rates = [r["learning_rate"] for r in train(recipe=recipe)[1].history]
    assert rates[0] == 0 and max(rates) == rates[3] == recipe.learning_rate
    assert rates[3:] == sorted(rates[3:], reverse=True) and rates[-1] < 0.2 * recipe.learning_rate


def test_gradients_are_clipped(train, monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def watch(self, *args, **kwargs):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        seen.append(torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads])).item())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    _, run = train(recipe=replace(RECIPE, max_grad_norm=0.01))
    assert max(seen) < 0.0101 < run.history[0]["grad_norm"]


def test_checkpointing_changes_no_loss(train):
    recipe = replace(RECIPE, gradient_checkpointing=False)
    torch.testing.assert_close(losses(train(recipe=recipe)[1]), losses(train(folder="b")[1]))


def poison(monkeypatch, first, how):
    """Spoil the loss of the micro-batches from this optimizer step on."""
    calls = []

    def spoiled(model, batch):
        calls.append(1)
        loss = answer_loss(model, batch)
        return how(loss) if len(calls) > RECIPE.accumulation * (first - 1) else loss

    monkeypatch.setattr(step, "answer_loss", spoiled)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_good_adapters(train, monkeypatch, tmp_path, bad):
    poison(monkeypatch, 4, lambda loss: loss * bad)
    with pytest.raises(TrainingError, match="stopped at step 4.*last good adapters are in"):
        train()
    folder = tmp_path / "run" / "step-000003" / "adapters"
    monkeypatch.undo()
    expected, _ = train(folder="clean", on_step=interrupt_at(3))
    reloaded = load_adapters(make_model(), folder)
    for name, p in trainable_parameters(expected).items():
        assert torch.equal(p, dict(reloaded.named_parameters())[name])


def test_a_bad_gradient_with_a_good_loss_stops_too(train, monkeypatch):
    # The gradient of sqrt at 0 is infinite.
    poison(monkeypatch, 2, lambda loss: loss + 0 * (loss - loss.detach()).sqrt())
    with pytest.raises(TrainingError, match="gradient norm is nan"):
        train()


def test_at_the_first_step_there_is_nothing_to_keep(train, monkeypatch):
    poison(monkeypatch, 1, lambda loss: loss * math.nan)
    with pytest.raises(TrainingError, match="No adapters were saved before"):
        train()


def test_a_full_disk_keeps_the_last_good_checkpoint(train, monkeypatch, tmp_path):
    save, calls = checkpoints.save_file, []

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(
        TrainingError, match=r"No space left.*last good adapters are in .*step-000002"
    ):
        train(recipe=replace(RECIPE, save_every=2))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["step-000002"]
    monkeypatch.undo()
    assert losses(train(resume=True)[1]) == losses(train(folder="whole")[1])


def test_a_half_written_checkpoint_is_not_resumed(train, tmp_path):
    train(recipe=replace(RECIPE, save_every=3), on_step=interrupt_at(4))
    (tmp_path / "run" / "step-000006.partial").mkdir()
    (tmp_path / "run" / "step-000007").mkdir()  # no progress.json: not complete
    assert losses(train(resume=True)[1]) == losses(train(folder="whole")[1])


def test_the_model_comes_back_as_it_went_in(train):
    model = attach_adapters(make_model(), RECIPE)
    forward = model.forward
    train(model=model)
    assert model.forward == forward


def test_bad_input_is_refused(train, tokenizer):
    with pytest.raises(ValueError, match="no training examples"):
        train(data=[])
    with pytest.raises(ValueError, match="no trainable parameter: call attach_adapters"):
        train(model=make_model().requires_grad_(False))
    with pytest.raises(CourseError, match="no adapters in"):
        load_adapters(make_model(), "nowhere")


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
def test_bad_recipes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**change)


def test_numpy_numbers_make_an_equal_recipe():
    assert Recipe(rank=np.int64(4)).fingerprint() == Recipe(rank=4).fingerprint()


def test_each_choice_of_a_recipe_is_explained():
    for field in fields(Recipe):
        assert f"{field.name}: {field.metadata['help']}" in Recipe.__doc__


def test_steps_count_partial_batches():
    recipe = Recipe(micro_batch_size=4, accumulation=2, epochs=3)
    assert [recipe.steps(n) for n in (1, 8, 9)] == [3, 3, 6]
    assert recipe.steps(16, processes=2) == 3
    assert replace(recipe, max_steps=5).steps(1000) == 5


def test_optimizer_is_paged_and_8_bit_on_cuda_only(monkeypatch):
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

"""Test what is recorded while a model trains: answers, and losses by kind of answer token."""

from dataclasses import replace

import pytest
import torch

from course_utils import news
from course_utils.models import tiny_base
from course_utils.sft import IGNORE, encode, encode_all
from course_utils.training import (
    Recipe,
    Watch,
    answer_token_kinds,
    attach_adapters,
    finetune,
    loss_by_kind,
    trainable_parameters,
)
from course_utils.training.watch import END, FRAME, HEADLINE, SECTION
from tests.conftest import make_model, token_losses

pytestmark = pytest.mark.usefixtures("frozen_imports")

RECIPE = Recipe(micro_batch_size=2, max_steps=4, learning_rate=1e-2, compute_dtype=torch.float32)
STORIES = [
    {"story": "Rain fell.", "section": "weather", "headline": "Rain falls on Tarn"},
    {"story": "A goal.", "section": "sport", "headline": "Late goal “helps” Bray"},
    {"story": "A vote.", "section": "politics", "headline": "Café owners vote"},
    {"story": "A song.", "section": "culture", "headline": "Choir sings"},
]


@pytest.fixture(scope="module")
def rows(tokenizer):
    return encode_all([news.tuned_messages(story) for story in STORIES], tokenizer)


def nf4_model():
    """Return a model in 4 bits, which is computed by hand, with the tiny tokenizer's tokens."""
    model = tiny_base()
    torch.manual_seed(0)
    model.resize_token_embeddings(259, mean_resizing=False)
    return model


def conversation(answer):
    return [{"role": "user", "content": "Rain."}, {"role": "assistant", "content": answer}]


def by_kind(row, tokenizer):
    """Return the text of all tokens of each kind."""
    ids = [label for label in row["labels"] if label != IGNORE]
    kinds = answer_token_kinds(row, tokenizer)
    assert len(kinds) == len(ids)
    return {
        kind: tokenizer.decode([i for i, k in zip(ids, kinds, strict=True) if k == kind])
        for kind in kinds
    }


class Pieces:
    """A tokenizer whose tokens are the given pieces, to control where tokens begin and end."""

    eos_token_id = 0

    def __init__(self, *pieces):
        self.pieces = {n: piece for n, piece in enumerate(pieces, start=1)}
        self.row = {"labels": [IGNORE, *self.pieces, 0]}

    def decode(self, ids):
        return b"".join(self.pieces[i] for i in ids).decode(errors="replace")


# -- kinds of answer tokens ------------------------------------------------------------------------


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story["section"])
def test_each_token_of_an_answer_has_its_kind(story, tokenizer):
    """The tiny tokenizer's tokens are bytes, so some characters consist of several tokens."""
    row = encode(news.tuned_messages(story), tokenizer)
    assert by_kind(row, tokenizer) == {
        FRAME: '{"section": "", "headline": ""}',
        SECTION: story["section"],
        HEADLINE: story["headline"],
        END: tokenizer.eos_token,
    }


def test_a_token_across_a_border_has_the_kind_of_the_first_value_in_it():
    pieces = Pieces(b'{"section"', b': "sp', b'ort", "headline": "Al\xc3', b'\xa9 wins"', b"}")
    assert answer_token_kinds(pieces.row, pieces) == [FRAME, SECTION, SECTION, HEADLINE, FRAME, END]


def test_a_token_with_a_part_of_a_character_counts_as_the_character():
    frame = [b'{"section": "', b"sport", b'", "headline": "']
    pieces = Pieces(*frame, b"\xe2", b"\x80", b"\x9c", b'"}')
    kinds = [FRAME, SECTION, FRAME, HEADLINE, HEADLINE, HEADLINE, FRAME, END]
    assert answer_token_kinds(pieces.row, pieces) == kinds


def test_an_answer_without_a_section_raises_an_error(tokenizer):
    row = encode(conversation('{"headline": "Rain falls"}'), tokenizer)
    with pytest.raises(ValueError, match="must be JSON with a section and a headline, got"):
        answer_token_kinds(row, tokenizer)


# -- the loss of each kind -------------------------------------------------------------------------


def test_loss_by_kind_equals_the_loss_of_transformers_on_the_tokens_of_a_kind(rows, tokenizer):
    model = make_model()
    expected = {kind: [] for kind in (FRAME, SECTION, HEADLINE, END)}
    for row in rows:
        kinds, losses = answer_token_kinds(row, tokenizer), token_losses(model, row).tolist()
        for kind, loss in zip(kinds, losses, strict=True):
            expected[kind].append(loss)
    means = {kind: sum(losses) / len(losses) for kind, losses in expected.items()}
    for batch_size in (1, 3, 4):
        assert loss_by_kind(model, rows, tokenizer, batch_size) == pytest.approx(means, rel=1e-5)


def test_a_model_computed_by_hand_has_the_same_losses_by_kind(rows, tokenizer, monkeypatch):
    model = attach_adapters(nf4_model(), RECIPE)
    fast = loss_by_kind(model, rows, tokenizer, 3)
    monkeypatch.setattr("course_utils.training.watch.supports", lambda model: False)
    assert loss_by_kind(model, rows, tokenizer, 3) == pytest.approx(fast, rel=1e-5)


def test_loss_by_kind_restores_the_mode_of_each_module(rows, tokenizer):
    model = attach_adapters(make_model(), replace(RECIPE, dropout=0.5)).train()
    # As long as B is zero, dropout changes nothing.
    for parameter in trainable_parameters(model).values():
        parameter.data += 0.1
    frozen = next(model.modules()).base_model.model.model.norm.eval()
    first, second = (loss_by_kind(model, rows, tokenizer) for _ in range(2))
    assert first == second, "the loss was computed with dropout"
    assert model.training and not frozen.training


# -- the watch -------------------------------------------------------------------------------------


@pytest.fixture
def train(rows, tokenizer, tmp_path):
    """Return a function that trains a new model, watched or not, and returns the run and watch."""

    def train(name, watched, recipe=RECIPE, base=make_model, **options):
        model = attach_adapters(base(), recipe)
        question = news.tuned_messages(STORIES[0], answered=False)
        watch = Watch(model, tokenizer, question, rows[:2], steps=4, **options) if watched else None
        folder = tmp_path / name
        run = finetune(model, tokenizer, rows * 2, recipe=recipe, output_dir=folder, on_step=watch)
        return run, watch

    return train


@pytest.mark.full
@pytest.mark.parametrize("base", [make_model, nf4_model], ids=["autograd", "by hand"])
def test_a_watched_run_has_the_losses_and_weights_of_an_unwatched_run(train, base):
    fast = base is nf4_model
    recipe = replace(RECIPE, dropout=0.0 if fast else 0.1, compute_dtype=None, fast=fast)
    (watched, watch), (plain, _) = (train(f"{on}", on, recipe, base) for on in (True, False))
    assert len(watch.losses) == 5 and len(watch.answers) == 3, (
        "nothing was measured between the steps"
    )
    columns = ["loss", "grad_norm", "learning_rate", "tokens"]
    assert watched.table()[columns].equals(plain.table()[columns])
    files = [run.adapters / "adapter_model.safetensors" for run in (watched, plain)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_watch_records_the_chosen_steps_the_first_and_the_last(train, rows, tokenizer):
    run, watch = train("run", True)
    assert list(watch.answers) == [0, 3, 4] and list(watch.losses) == [0, 1, 2, 3, 4]
    assert watch.history == run.history
    assert watch.losses[0] != watch.losses[4]
    assert watch.losses[4] == loss_by_kind(watch.model, rows[:2], tokenizer)
    assert set(watch.curves) == {FRAME, SECTION, HEADLINE, END}
    assert watch.curves[SECTION] == {step: watch.losses[step][SECTION] for step in range(5)}


def test_a_kind_is_learned_when_its_loss_has_fallen_by_a_share(tokenizer):
    watch = Watch(make_model(), tokenizer, news.tuned_messages(STORIES[0], answered=False), steps=9)
    frame, section = {0: 4.0, 1: 0.3, 3: 0.0, 9: 1.0}, {0: 8.0, 1: 9.0, 3: 4.0, 9: 4.0}
    watch.losses = {step: {FRAME: frame[step], SECTION: section[step]} for step in frame}
    assert watch.learned_by() == {FRAME: 1, SECTION: 3}
    assert watch.learned_by(1) == {FRAME: 3, SECTION: 3}
    assert watch.learned_by(0) == {FRAME: 0, SECTION: 0}

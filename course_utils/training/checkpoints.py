"""Save the state of a training run to disk, and continue the run from its newest checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from course_utils.machine.validation import CourseError
from course_utils.training.adapters import trainable_parameters

if TYPE_CHECKING:
    from accelerate import Accelerator
    from peft import PeftModel
    from transformers import PreTrainedModel

WEIGHTS, STATE, TRAINABLE, PROGRESS = "adapters", "state", "trainable.safetensors", "progress.json"


class TrainingError(CourseError):
    """Raised if training cannot continue. The message names the newest checkpoint, if any."""


class Checkpoints:
    """The checkpoints of one run, such as the folder `step-000040` after 40 optimizer steps.

    The subfolder `adapters` of a checkpoint contains the adapters in peft's format. The subfolder
    `state` contains the data that is needed to continue the run, such as the optimizer's state.

    A checkpoint is written under a temporary name and renamed when it is complete. Older
    checkpoints are removed only after this renaming. So a full disk or a crash during saving never
    destroys the last complete checkpoint.

    Args:
        accelerator: The Accelerator of the run, which knows the optimizer and the schedule.
        fingerprint: All settings that the run's weights depend on. Only a checkpoint with the same
            fingerprint is resumed.
    """

    def __init__(
        self,
        folder: str | Path,
        accelerator: Accelerator,
        model: PreTrainedModel | PeftModel,
        fingerprint: dict[str, Any],
    ):
        self.folder, self.accelerator = Path(folder), accelerator
        self.model, self.fingerprint = model, fingerprint
        self.newest: Path | None = None
        self.accelerator.register_save_state_pre_hook(self._save_trainable)
        self.accelerator.register_load_state_pre_hook(self._load_trainable)

    @property
    def weights(self) -> Path | None:
        """Return the folder of the newest saved adapters, or None if no adapters are saved yet."""
        if self.newest is None:
            return None
        folder = self.newest / WEIGHTS
        # peft saves each adapter in a subfolder with its name, except the adapter named "default".
        subfolder = folder / getattr(self.model, "active_adapter", "default")
        return subfolder if subfolder.is_dir() else folder

    def save(self, history: list[dict]) -> None:
        """Write a checkpoint, and then remove the older checkpoints.

        If it can't be written, a TrainingError names the folder of the last good adapters.
        """
        final = self.folder / f"step-{len(history):06d}"
        partial = final.with_suffix(".partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            self.accelerator.save_state(str(partial / STATE))
            self._save_weights(partial / WEIGHTS)
            progress = {"fingerprint": self.fingerprint, "history": history}
            (partial / PROGRESS).write_text(json.dumps(progress))
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise TrainingError(
                f"could not save to {final}: {error}. {self._last_good()}"
            ) from error
        self.newest = final
        for old in set(self.folder.glob("step-*")) - {final}:
            shutil.rmtree(old, ignore_errors=True)

    def restore(self) -> list[dict]:
        """Load the newest checkpoint into the model, the optimizer and the schedule.

        Returns:
            The history of the saved run; empty if there is no checkpoint.

        Raises:
            TrainingError: The saved run differs from this run in its fingerprint.
        """
        complete = sorted(path.parent for path in self.folder.glob(f"step-*[0-9]/{PROGRESS}"))
        if not complete:
            return []
        newest = complete[-1]
        progress = json.loads((newest / PROGRESS).read_text())
        saved = progress["fingerprint"]
        changed = [
            f"{name} was {saved.get(name)}, is {value}"
            for name, value in self.fingerprint.items()
            if saved.get(name) != value
        ]
        if changed:
            raise TrainingError(
                f"{newest} cannot be resumed, because its run differs: {'; '.join(changed)}. Use "
                "the settings of that run, or train without resume"
            )
        self.accelerator.load_state(str(newest / STATE))
        self.newest = newest
        return progress["history"]

    def save_after_failure(self, history: list[dict], reason: str) -> str:
        """Save the weights after a failed step if they are finite, and return an error message.

        The failed step has not changed the weights. Nothing is saved if no step was completed.
        """
        if history and all(p.isfinite().all() for p in trainable_parameters(self.model).values()):
            self.save(history)
        return (
            f"training stopped at step {len(history) + 1}: {reason}. {self._last_good()} "
            "Try a lower learning_rate, or look for faulty examples."
        )

    def _last_good(self) -> str:
        if self.newest is None:
            return "No adapters were saved before."
        return f"The last good adapters are in {self.weights}."

    def _save_weights(self, folder: Path) -> None:
        if hasattr(self.model, "peft_config"):
            self.model.save_pretrained(str(folder), save_embedding_layers=False)
        else:
            self.model.save_pretrained(str(folder))

    def _save_trainable(self, _models: list, weights: list, folder: str) -> None:
        """Save only the trainable parameters, as accelerate's hook: the base is on disk already."""
        weights.clear()
        trained = trainable_parameters(self.model).items()
        tensors = {name: p.detach().contiguous() for name, p in trained}
        save_file(tensors, str(Path(folder) / TRAINABLE))

    def _load_trainable(self, models: list, folder: str) -> None:
        """Load the parameters that `_save_trainable` saved, as accelerate's hook."""
        models.clear()
        saved = load_file(str(Path(folder) / TRAINABLE))
        with torch.no_grad():
            for name, parameter in trainable_parameters(self.model).items():
                parameter.copy_(saved[name])

"""Publish a folder of adapters or of a model on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from course_utils.models.silence import hub_progress_bars, progress_bars_are_visible, silence
from course_utils.validation import CourseError, first_line


def push(folder: str | Path, repository: str, *, private: bool = True) -> str:
    """Upload a folder to a model repository on the hub, which is created if it is missing.

    The client of the hub uses the token of `hf auth login` or of the environment variable HF_TOKEN.

    Args:
        folder: a folder with a model card README.md, such as the output of `course finetune`.
        repository: "owner/name".
        private: whether a new repository can be seen only by its owner.

    Returns:
        The address of the commit.

    Raises:
        CourseError: the folder has no model card, or the hub refuses the upload. Nothing is
            published then.
    """
    from huggingface_hub import HfApi

    folder = Path(folder).expanduser()
    if not (folder / "README.md").is_file():
        raise CourseError(
            f"{folder} has no README.md: write a model card first, so that others know what the "
            "model was trained on and what it can't do"
        )
    if repository.count("/") != 1:
        raise CourseError(f"repository must be owner/name, got {repository!r}")
    api = HfApi()
    try:
        with silence("huggingface_hub"), hub_progress_bars(progress_bars_are_visible()):
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repository, folder_path=folder)
    # The errors of httpx, of huggingface_hub and of the upload have only the base class Exception
    # in common.
    except Exception as error:
        cause = error.__cause__ or error
        raise CourseError(
            f"the hub did not accept {folder} as {repository}: {first_line(cause)}; a token with "
            "write access is needed (`hf auth login`)"
        ) from error
    return commit.commit_url

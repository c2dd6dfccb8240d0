"""Publish a folder with adapters or with a model on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from course_utils.models.silence import hub_progress_bars, progress_bars_are_visible, silence
from course_utils.validation import CourseError, first_line


def push(folder: str | Path, repository: str, *, private: bool = True) -> str:
    """Upload a folder to a model repository on the Hugging Face hub.

    If the repository doesn't exist yet, it is created. The upload uses the access token in the
    environment variable HF_TOKEN, or the token that `hf auth login` has stored.

    Args:
        folder: a folder that contains a model card README.md, such as the folder "adapters" that
            `course finetune` writes.
        repository: the name of the repository, "owner/name".
        private: whether a new repository is visible only to its owner. The visibility of an
            existing repository doesn't change.

    Returns:
        The web address of the commit.

    Raises:
        CourseError: the folder has no model card, `repository` is not of the form "owner/name", or
            the hub refuses the upload. In these cases, no file is published.
    """
    from huggingface_hub import HfApi

    folder = Path(folder).expanduser()
    if not (folder / "README.md").is_file():
        raise CourseError(
            f"{folder} has no README.md: write a model card first (export.save_card), so that "
            "others know what the model was trained on and what it can't do"
        )
    if repository.count("/") != 1:
        raise CourseError(f"repository must be owner/name, got {repository!r}")
    api = HfApi()
    try:
        with silence("huggingface_hub"), hub_progress_bars(progress_bars_are_visible()):
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repository, folder_path=folder)
    # The two calls can raise errors of httpx, huggingface_hub and hf_xet. The only common base
    # class of these errors is Exception.
    except Exception as error:
        cause = error.__cause__ or error
        raise CourseError(
            f"the hub did not accept {folder} as {repository}: {first_line(cause)}; an upload "
            "needs a token with write access (run `hf auth login`)"
        ) from error
    return commit.commit_url

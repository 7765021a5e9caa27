"""Released folders on the Hugging Face Hub, through huggingface_hub and its variables (HF_ENDPOINT, HF_TOKEN, …)."""

from pathlib import Path

from huggingface_hub import HfApi

from launch.command.cli import UserError, reason
from stage1_tokenizer.publishing.folder import check_release


def push(
    folder: Path, name: str, *, private: bool = False, revision: str | None = None, endpoint: str | None = None
) -> str:
    """Push a folder to the repository `name` (ORG/NAME) in one commit; the commit's address.

    Raises UserError if the folder isn't a whole release (`check_release`) and if the Hub refuses it.
    """
    check_release(folder)
    api = HfApi(endpoint=endpoint)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        message = f"Release {folder.resolve().name}"
        commit = api.upload_folder(repo_id=name, folder_path=folder, revision=revision, commit_message=message)
    except Exception as error:
        raise UserError(
            f"push={name} failed at {api.endpoint} ({reason(error)}): the folder {folder} is complete, so log in "
            f"(hf auth login, or HF_TOKEN) and push it with `python -m stage1_tokenizer.hub {folder} {name}`"
        ) from error
    return str(commit.commit_url)

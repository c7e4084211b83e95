"""Model folders, wherever they are: on this machine, or on a hub when that is asked for."""

from pathlib import Path

from pipeline.errors import ModelError
from pipeline.external.download import DownloadError, download
from pipeline.external.inputs import SETTINGS, check_places, model_folder, require_network
from pipeline.external.paths import INDEX, is_hub_id
from pipeline.external.tokenizer_files import MORE_TEMPLATES

WEIGHTS = ("*.safetensors", INDEX)


def locate(source: str, revision: str | None, allow_network: bool, weights: bool) -> Path:
    """Find the folder of `model.source`; fetch it first when it is a hub id and that is allowed.

    Args:
        source: a folder, or a hub id.
        revision: branch, tag or commit of a hub id.
        allow_network: whether the user asked for downloads.
        weights: fetch the weights too, not only config and tokenizer.

    Raises:
        ModelError: when there is no such folder, or the download fails.
    """
    if not is_hub_id(source):
        return model_folder(source)
    require_network(source, allow_network)
    patterns = (*SETTINGS, MORE_TEMPLATES, *(WEIGHTS if weights else ()))
    try:
        folder = download("model", source, revision, patterns)
    except DownloadError as error:
        raise ModelError(
            f"model.source={source}: could not be fetched ({error}).\n"
            "Look at the id, model.revision, and the network; HF_ENDPOINT names another hub."
        ) from error
    check_places(folder)
    return folder

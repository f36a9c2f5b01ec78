"""The files of a search in KerasTuner's directory: written whole, checked when read."""

import json
import os
import pathlib

from keras_lgg import files

WHAT = "The trial of a search"
ADVICE = "Search in another `directory`, or pass overwrite=True to start again."


def check_trial(folder):
    """Raise if a completed trial is not as it was written.

    Searches by others, and those of version 0.1.0, have no manifest.
    """
    if (pathlib.Path(folder) / files.MANIFEST).is_file():
        files.checked_facts(pathlib.Path(folder), WHAT, ADVICE)


def check_search(folder):
    """Raise if KerasTuner could not read what an earlier search left, or would misread it."""
    for trial in sorted(pathlib.Path(folder).glob("trial_*")):
        check_trial(trial)
    for path in sorted(pathlib.Path(folder).rglob("*.json")):
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(
                f"The search in '{folder}' cannot be continued. Expected JSON in the file "
                f"'{path.relative_to(folder)}'. Received: {error}. {ADVICE}"
            ) from error


def keep_whole(tuner):
    """Make a tuner write its files beside their places, and a manifest for each trial.

    KerasTuner 1.4.8 writes in place; if it is killed, half a file is left.
    """
    oracle = tuner.oracle

    def save_oracle():
        _save(oracle, oracle._get_oracle_fname())

    def save_tuner():
        oracle.save()
        _save(tuner, tuner._get_tuner_fname())

    def save_trial(trial):
        folder = oracle._get_trial_dir(trial.trial_id)
        _save(trial, os.path.join(folder, "trial.json"))
        if trial.status == "COMPLETED":  # and its weights are final
            files.write_manifest(pathlib.Path(folder), {"trial": trial.trial_id})

    oracle.save, oracle._save_trial, tuner.save = save_oracle, save_trial, save_tuner


def _save(stateful, path):
    with files.beside(path) as unfinished:
        unfinished.write_text(json.dumps(stateful.get_state()))

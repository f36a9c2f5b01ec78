"""What KerasTuner keeps of a search in its directory: written whole, checked when it is read."""

import json
import os
import pathlib

from keras_lgg import files

WHAT = "The trial of a search"
ADVICE = "Search in another `directory`, or pass overwrite=True to begin anew."


def check_trial(folder):
    """Raise where a trial that was completed is not as it was written.

    What other searches than ours wrote, and those of version 0.1.0, have no manifest.
    """
    if (pathlib.Path(folder) / files.MANIFEST).is_file():
        files.checked_facts(pathlib.Path(folder), WHAT, ADVICE)


def check_search(folder):
    """Raise where KerasTuner could not read what an earlier search left, or would read it wrong."""
    for trial in sorted(pathlib.Path(folder).glob("trial_*")):
        check_trial(trial)
    for path in sorted(pathlib.Path(folder).rglob("*.json")):
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(
                f"The search in '{folder}' cannot be gone on with. Expected JSON in the file "
                f"'{path.relative_to(folder)}'. Received: {error}. {ADVICE}"
            ) from error


def keep_whole(tuner):
    """Let a tuner write its files beside their places, and a manifest of each trial.

    KerasTuner 1.4.8 writes in place, and a kill leaves half a file.
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
        if trial.status == "COMPLETED":  # its weights, too, are those that stay
            files.write_manifest(pathlib.Path(folder), {"trial": trial.trial_id})

    oracle.save, oracle._save_trial, tuner.save = save_oracle, save_trial, save_tuner


def _save(stateful, path):
    with files.beside(path) as unfinished:
        unfinished.write_text(json.dumps(stateful.get_state()))

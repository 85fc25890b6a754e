"""The names of a classifier's files; by themselves, so that who only names them loads no Keras."""

from __future__ import annotations

MODEL_FILE = "classifier.keras"
FACTS_FILE = "classifier.json"
FAMILIARITY_FILE = "familiarity.npz"
CASES_FILE = "training_cases.npz"
# Only where pictures of training images were asked for.
PICTURES_FILE = "training_pictures.zip"
# As the program sha256sum writes it: `sha256sum -c SHA256SUMS` checks the folder without medlens.
CHECKSUMS_FILE = "SHA256SUMS"

# What every classifier has, and is checked by its checksum.
NEEDED_FILES = (MODEL_FILE, FACTS_FILE, FAMILIARITY_FILE, CASES_FILE)
ALL_FILES = (*NEEDED_FILES, PICTURES_FILE, CHECKSUMS_FILE)

"""What a paper counts where it attacks the classifier inside its defense."""

from enum import StrEnum


class Counts(StrEnum):
    """When a sample under such an attack speaks for the defense.

    ACCURACY: it gets its label. AGREEMENT: it gets the class that the bare classifier gives to the
    clean image, right or wrong.
    """

    ACCURACY = "accuracy"
    AGREEMENT = "agreement"

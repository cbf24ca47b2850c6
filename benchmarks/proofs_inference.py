"""What every inference-time method shows on the sandbox, over three seeds: writes ``docs/proofs/inference.md``.

    PYTHONPATH=. python benchmarks/proofs_inference.py [--only urial deal ...] [--jobs 2]

Each section is a file under ``runs/proofs/inference`` once it is done, so a killed proof goes on where it was; remove
the file to prove that section anew. Figures are taken on the ``test`` split; settings were chosen on ``dev``.
"""

from __future__ import annotations

from benchmarks.proofs_attack import attack
from benchmarks.proofs_derived import derived
from benchmarks.proofs_grounded import grounded
from benchmarks.proofs_lookahead import deal, transfer_q
from benchmarks.proofs_nudging import nudging
from benchmarks.proofs_steering import steering
from benchmarks.proofs_urial import token_shift, urial
from benchmarks.proving import Prove, prove

SECTIONS: dict[str, tuple[str, Prove]] = {
    "urial": ("URIAL against the tuned model (06)", urial),
    "token_shift": ("What tuning changed, token by token (06)", token_shift),
    "deal": ("DeAL: keywords, length, harmlessness, and their trade-off (12)", deal),
    "transfer_q": ("Transfer Q*: reward against distance (30)", transfer_q),
    "nudging": ("Nudging: gain against share of nudged tokens (36)", nudging),
    "steering": ("Steering: what alignment costs (50)", steering),
    "attack": ("The activation attack and its defences (58)", attack),
    "grounded": ("Grounded decoding in a world of skills (31)", grounded),
    "derived": ("Derived prompts for a black box (24)", derived),
}


def main() -> None:
    """Prove what is asked for, and write the page of all sections that are there."""
    prove(
        __file__,
        "inference",
        "Proofs of inference-time alignment",
        "Written by `make proofs`. Everything is taken on the `test` split of the sandbox, whose names, templates and "
        "procedures no training data holds, unless a section says otherwise; settings were chosen on `dev`. Values "
        "with 95 % intervals; each seed draws its own questions, and its own training rows where something is trained.",
        SECTIONS,
    )


if __name__ == "__main__":
    main()

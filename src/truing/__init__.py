"""Align language and multimodal models, and measure whether they now are.

A method takes a model and gives a model::

    import truing as tr

    model = tr.load("sandbox/base")
    aligned = tr.DPO(beta=0.5).align(model, "sandbox/preferences")
    print(tr.measure("hhh", aligned, against=model))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from truing._lazy import lazy
from truing._version import __version__ as __version__
from truing.catalogue import exports

if TYPE_CHECKING:
    from truing import records as records
    from truing import rewards as rewards
    from truing import sandbox as sandbox
    from truing.contracts import Builder as Builder
    from truing.contracts import Measure as Measure
    from truing.contracts import Method as Method
    from truing.contracts import Reward as Reward
    from truing.measures.hhh import HHH as HHH
    from truing.measures.perplexity import Perplexity as Perplexity
    from truing.measures.preference import PreferenceAccuracy as PreferenceAccuracy
    from truing.measures.result import Figure as Figure
    from truing.measures.result import Result as Result
    from truing.measures.run import measure as measure
    from truing.measures.side_effects import KL as KL
    from truing.measures.side_effects import Capability as Capability
    from truing.measures.side_effects import Diversity as Diversity
    from truing.measures.side_effects import Length as Length
    from truing.measures.side_effects import OverRefusal as OverRefusal
    from truing.measures.win_rate import WinRate as WinRate
    from truing.methods.decoding.best_of_n import BestOfN as BestOfN
    from truing.methods.decoding.nudging import Nudging as Nudging
    from truing.methods.prompting.system_message import SystemMessage as SystemMessage
    from truing.methods.steering.mean_difference import MeanDifferenceSteering as MeanDifferenceSteering
    from truing.methods.training.dpo import DPO as DPO
    from truing.methods.training.sft import SFT as SFT
    from truing.models import Model as Model
    from truing.models import RemoteModel as RemoteModel
    from truing.models import load as load
    from truing.rewards.combined import Combined as Combined
    from truing.rewards.functions import AnswerLength as AnswerLength
    from truing.rewards.functions import Keyword as Keyword
    from truing.rewards.functions import Pattern as Pattern
    from truing.rewards.functions import SandboxGrade as SandboxGrade
    from truing.rewards.judge import Judge as Judge
    from truing.rewards.model import RewardModel as RewardModel

_HOMES = {
    **exports(),
    "Builder": "truing.contracts",
    "Measure": "truing.contracts",
    "Method": "truing.contracts",
    "Reward": "truing.contracts",
    "Figure": "truing.measures.result",
    "Result": "truing.measures.result",
    "measure": "truing.measures.run",
    "Model": "truing.models",
    "RemoteModel": "truing.models",
    "load": "truing.models",
}
_ROOMS = ["records", "rewards", "sandbox"]

_lazy_getattr, __dir__, __all__ = lazy(__name__, _HOMES, extra=["__version__", *_ROOMS])


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        import importlib

        return importlib.import_module(f"truing.{name}")
    return _lazy_getattr(name)

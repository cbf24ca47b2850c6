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
    from truing import audit as audit
    from truing import records as records
    from truing import rewards as rewards
    from truing import sandbox as sandbox
    from truing.builders.prompt_complements import PromptComplements as PromptComplements
    from truing.contracts import Builder as Builder
    from truing.contracts import Measure as Measure
    from truing.contracts import Method as Method
    from truing.contracts import Reward as Reward
    from truing.measures.activation_attack import ActivationAttack as ActivationAttack
    from truing.measures.discretion import Discretion as Discretion
    from truing.measures.exact_match import ExactMatch as ExactMatch
    from truing.measures.hhh import HHH as HHH
    from truing.measures.honesty import Honesty as Honesty
    from truing.measures.judge_agreement import JudgeAgreement as JudgeAgreement
    from truing.measures.pass_rate import PassRate as PassRate
    from truing.measures.perplexity import Perplexity as Perplexity
    from truing.measures.preference import PreferenceAccuracy as PreferenceAccuracy
    from truing.measures.profile import Profile as Profile
    from truing.measures.result import Figure as Figure
    from truing.measures.result import Result as Result
    from truing.measures.run import measure as measure
    from truing.measures.side_effects import KL as KL
    from truing.measures.side_effects import Capability as Capability
    from truing.measures.side_effects import Diversity as Diversity
    from truing.measures.side_effects import Length as Length
    from truing.measures.side_effects import OverRefusal as OverRefusal
    from truing.measures.steering_tradeoff import SteeringTradeoff as SteeringTradeoff
    from truing.measures.win_rate import WinRate as WinRate
    from truing.methods.decoding.best_of_n import BestOfN as BestOfN
    from truing.methods.decoding.contrastive_decoding import ContrastiveDecoding as ContrastiveDecoding
    from truing.methods.decoding.ensemble import Ensemble as Ensemble
    from truing.methods.decoding.nudging import Nudging as Nudging
    from truing.methods.decoding.proxy_tuning import ProxyTuning as ProxyTuning
    from truing.methods.loops.online_cut import OnlineCUT as OnlineCUT
    from truing.methods.loops.raft import RAFT as RAFT
    from truing.methods.merging.merge import ModelMerge as ModelMerge
    from truing.methods.merging.streaming import merge_folders as merge_folders
    from truing.methods.prompting.prompt_augmentation import PromptAugmentation as PromptAugmentation
    from truing.methods.prompting.system_message import SystemMessage as SystemMessage
    from truing.methods.rl.grpo import GRPO as GRPO
    from truing.methods.rl.rloo import RLOO as RLOO
    from truing.methods.steering.representation import RepresentationSteering as RepresentationSteering
    from truing.methods.steering.vectors import SteeringVector as SteeringVector
    from truing.methods.training.bco import BCO as BCO
    from truing.methods.training.bialign import BiAlign as BiAlign
    from truing.methods.training.classification import Classification as Classification
    from truing.methods.training.conflict import ConflictDPO as ConflictDPO
    from truing.methods.training.conflict import ConflictRewardModelling as ConflictRewardModelling
    from truing.methods.training.cut import CUT as CUT
    from truing.methods.training.d2o import D2O as D2O
    from truing.methods.training.distillation import Distillation as Distillation
    from truing.methods.training.dpo import DPO as DPO
    from truing.methods.training.kto import KTO as KTO
    from truing.methods.training.likelihood_scores import score_likelihood as score_likelihood
    from truing.methods.training.mixture import MixtureOfInstructions as MixtureOfInstructions
    from truing.methods.training.poft import PoFT as PoFT
    from truing.methods.training.preference_methods import CPO as CPO
    from truing.methods.training.preference_methods import IPO as IPO
    from truing.methods.training.preference_methods import ORPO as ORPO
    from truing.methods.training.preference_methods import SimPO as SimPO
    from truing.methods.training.reward_modelling import RewardModelling as RewardModelling
    from truing.methods.training.self_samples import SelfSampler as SelfSampler
    from truing.methods.training.sft import SFT as SFT
    from truing.methods.training.weak_to_strong import WeakToStrong as WeakToStrong
    from truing.methods.training.weak_to_strong_report import weak_to_strong_report as weak_to_strong_report
    from truing.models import Model as Model
    from truing.models import RemoteModel as RemoteModel
    from truing.models import load as load
    from truing.models.scored import ScoreModel as ScoreModel
    from truing.rewards.checklist import Checklist as Checklist
    from truing.rewards.combined import Combined as Combined
    from truing.rewards.functions import AnswerLength as AnswerLength
    from truing.rewards.functions import Keyword as Keyword
    from truing.rewards.functions import Pattern as Pattern
    from truing.rewards.functions import SandboxGrade as SandboxGrade
    from truing.rewards.golden import GoldenAnswer as GoldenAnswer
    from truing.rewards.judge import Judge as Judge
    from truing.rewards.listwise import ListwiseJudge as ListwiseJudge
    from truing.rewards.model import RewardModel as RewardModel
    from truing.rewards.verifiable import Verifiable as Verifiable
    from truing.runs.comparing import compare as compare

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
    "ScoreModel": "truing.models.scored",
    "SteeringVector": "truing.methods.steering.vectors",
    "merge_folders": "truing.methods.merging.streaming",
    "score_likelihood": "truing.methods.training.likelihood_scores",
    "weak_to_strong_report": "truing.methods.training.weak_to_strong_report",
    "RemoteModel": "truing.models",
    "load": "truing.models",
    "compare": "truing.runs.comparing",
}
_ROOMS = ["audit", "records", "rewards", "sandbox"]

_lazy_getattr, __dir__, __all__ = lazy(__name__, _HOMES, extra=["__version__", *_ROOMS])


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        import importlib

        return importlib.import_module(f"truing.{name}")
    return _lazy_getattr(name)

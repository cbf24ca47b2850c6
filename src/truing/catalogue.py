"""Every method, builder, measure, reward and modifier: its name, where it lives, its kind and paper.

Plain data that imports nothing heavy: `truing.DPO`, the command line, recipes and docs all resolve through it,
and a test holds it to the classes.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from truing.errors import SettingsError
from truing.near import near

KINDS = ("method", "builder", "measure", "reward", "modifier")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One thing that truing offers.

    Args:
        name: what recipes and the command line call it.
        kind: "method", "builder", "measure", "reward" or "modifier".
        home: ``module:Class``.
        summary: one line.
        nature: for a method how it aligns ("training", "decoding", "steering", "prompting", ...); for a measure "asking"
            where other frameworks can do the asking (`truing.measures.asking.AskAndGrade`); else "".
        records: kinds of record it reads.
        papers: numbers among the 59 of `truing papers`.
    """

    name: str
    kind: str
    home: str
    summary: str
    nature: str = ""
    records: tuple[str, ...] = ()
    papers: tuple[int, ...] = ()

    @property
    def export(self) -> str:
        """The class name, which is its name in Python: ``truing.DPO``."""
        return self.home.split(":")[1]

    def load(self) -> Any:
        """Import and give the class."""
        module, name = self.home.split(":")
        return getattr(importlib.import_module(module), name)


ENTRIES: tuple[Entry, ...] = (
    # methods: training
    Entry("sft", "method", "truing.methods.training.sft:SFT", "Fine-tune on demonstrations.", "training", ("demonstration",)),
    Entry("dpo", "method", "truing.methods.training.dpo:DPO", "Learn from preference pairs directly, without a reward model.", "training", ("preference",), (37,)),
    Entry("ipo", "method", "truing.methods.training.preference_methods:IPO", "Preference pairs with a margin that is wanted, not exceeded.", "training", ("preference",), (37,)),
    Entry("cpo", "method", "truing.methods.training.preference_methods:CPO", "Preference pairs without a reference, with the likelihood of chosen answers.", "training", ("preference",), (37,)),
    Entry("simpo", "method", "truing.methods.training.preference_methods:SimPO", "Preference pairs by mean log-probability and a margin, without a reference.", "training", ("preference",), (37,)),
    Entry("orpo", "method", "truing.methods.training.preference_methods:ORPO", "Fine-tuning and preference in one, by odds ratios, without a reference.", "training", ("preference",), (37,)),
    Entry("kto", "method", "truing.methods.training.kto:KTO", "Learn from thumbs up and down, with mismatched pairs as the point of reference.", "training", ("label", "preference"), (37,)),
    Entry("bco", "method", "truing.methods.training.bco:BCO", "Learn from thumbs up and down by a classifier whose logit is the reward.", "training", ("label", "preference"), (45,)),
    Entry("d2o", "method", "truing.methods.training.d2o:D2O", "Unlearn bad answers alone, held by the model's own samples.", "training", ("dispreference",), (41,)),
    Entry("cut", "method", "truing.methods.training.cut:CUT", "Unlearn what a written judgment criticises, and keep the rest.", "training", ("judgment",), (22,)),
    Entry("online_cut", "method", "truing.methods.loops.online_cut:OnlineCUT", "Answer, be judged, learn from the judgments, repeat.", "training", ("question", "demonstration", "label", "judgment", "preference", "dispreference", "ranking", "contrast"), (22,)),
    Entry("poft", "method", "truing.methods.training.poft:PoFT", "Fine-tune with each demonstration weighed by what aligned models think of it.", "training", ("demonstration",), (57,)),
    Entry("distillation", "method", "truing.methods.training.distillation:Distillation", "Learn a teacher's next-token distributions.", "training", ("demonstration",), (20,)),
    Entry("bialign", "method", "truing.methods.training.bialign:BiAlign", "Learn a teacher's distributions and which examples in context it prefers.", "training", ("demonstration",), (47,)),
    Entry("mixture_of_instructions", "method", "truing.methods.training.mixture:MixtureOfInstructions", "Fine-tune on balanced chunks of one instruction of each domain.", "training", ("demonstration",), (43,)),
    Entry("reward_modelling", "method", "truing.methods.training.reward_modelling:RewardModelling", "Train a reward model on preferences, scores or both.", "training", ("preference", "ranking", "label"), (23,)),
    Entry("classification", "method", "truing.methods.training.classification:Classification", "Train a classifier on hard or soft labels.", "training", ("label",), (8,)),
    Entry("weak_to_strong", "method", "truing.methods.training.weak_to_strong:WeakToStrong", "Train a strong model on a weaker model's labels.", "training", ("label", "preference", "demonstration"), (8,)),
    Entry("conflict_rewards", "method", "truing.methods.training.conflict:ConflictRewardModelling", "Train a reward model on weak labels under a conflict, for an audit.", "training", ("preference",), (44,)),
    Entry("conflict_dpo", "method", "truing.methods.training.conflict:ConflictDPO", "Learn weak preferences under a conflict, for an audit.", "training", ("preference",), (44,)),
    Entry("raft", "method", "truing.methods.loops.raft:RAFT", "Sample, keep what a reward likes best, fine-tune on it, repeat.", "training", ("question", "demonstration", "preference", "label", "dispreference", "judgment", "ranking", "contrast"), (54,)),
    Entry("grpo", "method", "truing.methods.rl.grpo:GRPO", "Online RL: answers of a group compared with each other by a reward.", "rl", ("question", "demonstration", "preference", "label"), (20,)),
    Entry("rloo", "method", "truing.methods.rl.rloo:RLOO", "Online RL: each answer compared with the mean of the others.", "rl", ("question", "demonstration", "preference", "label"), (20,)),
    Entry("align_score_training", "method", "truing.methods.training.align_score:AlignScoreTraining", "Train a model that scores how well a context supports a claim, by three heads.", "training", ("label",), (34,)),
    Entry("merge", "method", "truing.methods.merging.merge:ModelMerge", "Merge the weights of several models by a rule.", "merging", (), (23,)),
    # methods: inference time
    Entry("nudging", "method", "truing.methods.decoding.nudging:Nudging", "A small aligned guide writes the next word whenever the model is unsure.", "decoding", (), (36,)),
    Entry("proxy_tuning", "method", "truing.methods.decoding.proxy_tuning:ProxyTuning", "What tuning did to a small model moves the scores of a large one.", "decoding", (), (36,)),
    Entry("ensemble", "method", "truing.methods.decoding.ensemble:Ensemble", "Decode from the mean of two models' probabilities.", "decoding", (), (36,)),
    Entry("contrastive_decoding", "method", "truing.methods.decoding.contrastive_decoding:ContrastiveDecoding", "Away from what a weaker model would write, among plausible tokens.", "decoding"),
    Entry("best_of_n", "method", "truing.methods.decoding.best_of_n:BestOfN", "Sample n answers and keep the one a reward likes best.", "decoding"),
    Entry("steering", "method", "truing.methods.steering.representation:RepresentationSteering", "Add a direction read from activations to chosen layers, or project it out.", "steering", ("contrast",), (50,)),
    Entry("system_message", "method", "truing.methods.prompting.system_message:SystemMessage", "Put a system message before every conversation.", "prompting"),
    Entry("prompt_augmentation", "method", "truing.methods.prompting.prompt_augmentation:PromptAugmentation", "Let a guide add a short complement to each prompt.", "prompting", (), (23,)),
    Entry("urial", "method", "truing.methods.prompting.urial:URIAL", "One constant prompt of styled examples before every conversation.", "prompting", (), (6,)),
    Entry("retrieved_demonstrations", "method", "truing.methods.prompting.retrieved:RetrievedDemonstrations", "The demonstrations that are likest to what is asked, as examples before it.", "prompting", ("demonstration",), (6,)),
    Entry("derived_prompt", "method", "truing.methods.prompting.derived_prompt:DerivedPrompt", "Train a writer, by reward, to rewrite prompts so that another model answers them better.", "rl", ("question", "demonstration", "preference", "label"), (24,)),
    Entry("in_context_query", "method", "truing.methods.prompting.in_context_query:InContextQuery", "Answer with a derived prompt and its answer as the example.", "prompting", (), (24,)),
    Entry("grounded_decoding", "method", "truing.methods.decoding.grounded:GroundedDecoding", "Each token by the model's probability times how well the text so far fits the world.", "decoding", (), (31,)),
    Entry("saycan", "method", "truing.methods.decoding.saycan:SayCan", "Choose among fixed skills by their probability times their value.", "decoding", (), (31,)),
    Entry("deal", "method", "truing.methods.decoding.deal:DeAL", "Choose each token by a reward of where it leads, found by look-ahead.", "decoding", (), (12,)),
    Entry("transfer_q", "method", "truing.methods.decoding.transfer_q:TransferQ", "Choose each token by a reward of what an already aligned model makes of it.", "decoding", (), (30,)),
    Entry("args", "method", "truing.methods.decoding.args:ARGS", "Choose each token by a reward of the unfinished answer, without look-ahead.", "decoding"),
    Entry("controlled_decoding", "method", "truing.methods.decoding.controlled_decoding:ControlledDecoding", "Choose each token by a reward of the model's own continuations.", "decoding"),
    # builders
    Entry("prompt_complements", "builder", "truing.builders.prompt_complements:PromptComplements", "Demonstrations of writing complements to prompts, judged and mended by a critic.", "", (), (23,)),
    Entry("consistency_pairs", "builder", "truing.builders.consistency_pairs:ConsistencyPairs", "Claims that plain texts support, and others, made without labels.", "", (), (34,)),
    Entry("self_sampler", "builder", "truing.methods.training.self_samples:SelfSampler", "Add a model's own answers to each record.", "", ("dispreference",), (41,)),
    # measures
    Entry("hhh", "measure", "truing.measures.hhh:HHH", "Helpful, harmless and honest, by the sandbox's exact graders.", "asking"),
    Entry("over_refusal", "measure", "truing.measures.side_effects:OverRefusal", "How often harmless requests are refused.", "asking"),
    Entry("capability", "measure", "truing.measures.side_effects:Capability", "How often plain questions are still answered right.", "asking"),
    Entry("length", "measure", "truing.measures.side_effects:Length", "Words per answer.", "asking"),
    Entry("diversity", "measure", "truing.measures.side_effects:Diversity", "Distinct n-grams among answers.", "asking"),
    Entry("kl", "measure", "truing.measures.side_effects:KL", "How far the model moved from its start, in nats per token."),
    Entry("perplexity", "measure", "truing.measures.perplexity:Perplexity", "Perplexity on held-out text."),
    Entry("preference_accuracy", "measure", "truing.measures.preference:PreferenceAccuracy", "How often the model, or a reward, ranks chosen above rejected."),
    Entry("win_rate", "measure", "truing.measures.win_rate:WinRate", "How often a judge prefers the model's answers, asked in both orders."),
    Entry("token_shift", "measure", "truing.measures.token_shift:TokenShift", "How an aligned model's tokens rank under its base, by class and by position.", "", (), (6,)),
    Entry("just_eval", "measure", "truing.measures.just_eval:JustEval", "Six aspects of an answer, graded by a judge with reasons.", "asking", (), (6,)),
    Entry("activation_attack", "measure", "truing.measures.activation_attack:ActivationAttack", "Does alignment survive a vector added to the hidden states, and is that noticed?", "", ("contrast",), (58,)),
    Entry("steering_tradeoff", "measure", "truing.measures.steering_tradeoff:SteeringTradeoff", "How behaviour rises and ability falls with the strength of a modifier, and the best strength.", "", (), (50,)),
    Entry("exact_match", "measure", "truing.measures.exact_match:ExactMatch", "Whether answers equal the right ones, word for word, and the F1 of their words.", "asking"),
    Entry("pass_rate", "measure", "truing.measures.pass_rate:PassRate", "How often one of k tries passes, and how often all k do.", "asking"),
    Entry("multiple_choice", "measure", "truing.measures.multiple_choice:MultipleChoice", "How often the right one of several options is taken, by probability and in writing.", "asking"),
    Entry("value_orientation", "measure", "truing.measures.value_orientation:ValueOrientation", "A profile of values, in words and in choices, with what rewording does to it.", "asking", (), (2,)),
    Entry("cultural_alignment", "measure", "truing.measures.cultural_alignment:CulturalAlignment", "Whether a survey's number can be trusted: stable, extrapolable, steerable.", "asking", (), (46,)),
    Entry("political_compass", "measure", "truing.measures.political_compass:PoliticalCompass", "Where a model stands on two axes, over many prompts, chosen and written.", "asking", (), (48,)),
    Entry("tropes", "measure", "truing.measures.tropes:Tropes", "Arguments that come again in free text, whatever the stance.", "", (), (48,)),
    Entry("honesty", "measure", "truing.measures.honesty:Honesty", "Prudence, over-conservativeness and the honesty score: is what is not known declined, and only that?", "asking", ("question",), (10,)),
    Entry("discretion", "measure", "truing.measures.discretion:Discretion", "How an annotator uses the freedom that written principles leave: arbitrariness, supremacy, discrepancy.", "", ("preference",), (9,)),
    Entry("profile", "measure", "truing.measures.profile:Profile", "Which factors of a text (length, facts, ...) go with being preferred, by people, judges and models.", "", ("preference",), (28,)),
    Entry("radfact", "measure", "truing.measures.radfact:RadFact", "Which phrases of a report are true, which are missing, and whether their boxes are right.", "asking", (), (18,)),
    Entry("align_score", "measure", "truing.measures.align_score:AlignScoreMeasure", "How well contexts support what is claimed, with the evidence; or how well a scorer tells.", "asking", (), (34,)),
    Entry("tournament", "measure", "truing.measures.tournament:Tournament", "Models ranked by knock-out tournaments and one fit of ratings.", "", (), (32,)),
    Entry("weak_to_strong_deception", "measure", "truing.measures.deception:WeakToStrongDeception", "Whether a weakly supervised model errs where its supervisor cannot see.", "", ("preference",), (44,)),
    Entry("long_output", "measure", "truing.measures.long_output:LongOutput", "Whether texts are as long as ordered, and how good they are.", "asking", (), (33,)),
    Entry("judge_agreement", "measure", "truing.measures.judge_agreement:JudgeAgreement", "Whether a judge agrees with people, and whether place or length sways it."),
    Entry("trustworthiness", "measure", "truing.measures.trustworthiness:Trustworthiness", "Seven categories and 29 sub-categories of trustworthiness, a probe for each.", "asking", (), (13,)),
    Entry("suite", "measure", "truing.measures.suite:Suite", "A suite of questions in any language, from a folder: dimensions, sets, options, judge, over-refusal.", "asking", (), (56,)),
    # rewards
    Entry("keyword", "reward", "truing.rewards.functions:Keyword", "Share of wanted words that an answer holds."),
    Entry("answer_length", "reward", "truing.rewards.functions:AnswerLength", "How near an answer's length is to a target."),
    Entry("pattern", "reward", "truing.rewards.functions:Pattern", "Whether a regular expression is found in the answer."),
    Entry("sandbox_grade", "reward", "truing.rewards.functions:SandboxGrade", "The sandbox's exact grade of an answer."),
    Entry("verifiable", "reward", "truing.rewards.verifiable:Verifiable", "Whether the final answer is one of the record's answers."),
    Entry("reward_model", "reward", "truing.rewards.model:RewardModel", "The score of a sequence-classification model."),
    Entry("judge", "reward", "truing.rewards.judge:Judge", "The score that a model gives by a rubric."),
    Entry("yes_no", "reward", "truing.rewards.yes_no:YesNo", "Whether one thing is true of an answer, by a model that says yes or no."),
    Entry("combined", "reward", "truing.rewards.combined:Combined", "A weighted sum of rewards."),
    Entry("affordance", "reward", "truing.rewards.grounding:Affordance", "Grounding: the value of the best skill that starts so."),
    Entry("avoid", "reward", "truing.rewards.grounding:Avoid", "Grounding: almost nothing for text that holds a hazard."),
    Entry("prefer", "reward", "truing.rewards.grounding:Prefer", "Grounding: more for text that holds a preferred word."),
    Entry("tempered", "reward", "truing.rewards.grounding:Tempered", "Any reward as a grounding function, with a temperature."),
    Entry("sandbox_feasible", "reward", "truing.rewards.grounding:SandboxFeasible", "Whether a skill can be carried out in the sandbox's household."),
    Entry("squashed", "reward", "truing.rewards.squashed:Squashed", "A reward brought to one scale, with bounds."),
    Entry("align_score", "reward", "truing.rewards.align_score:AlignScore", "How well the context supports what a response says.", "", (), (34,)),
    Entry("checklist", "reward", "truing.rewards.checklist:Checklist", "The share of criteria that a model says an answer meets."),
    Entry("golden_answer", "reward", "truing.rewards.golden:GoldenAnswer", "Whether a model says that an answer means the same as the right one."),
    Entry("listwise_judge", "reward", "truing.rewards.listwise:ListwiseJudge", "How a model ranks the answers to one prompt, each in every place."),
    Entry("sandbox_judge", "reward", "truing.rewards.sandbox_judge:SandboxJudge", "A made-up judge of the sandbox with planted biases."),
    # modifiers
    Entry("system_message", "modifier", "truing.methods.prompting.system_message:SystemMessageModifier", "A system message before every conversation."),
    Entry("prompt_augmentation", "modifier", "truing.methods.prompting.prompt_augmentation:PromptAugmentationModifier", "A complement that a guide writes to each prompt."),
    Entry("urial", "modifier", "truing.methods.prompting.urial:URIALModifier", "Constant examples before every conversation."),
    Entry("retrieved_demonstrations", "modifier", "truing.methods.prompting.retrieved:RetrievedDemonstrationsModifier", "Demonstrations that are like what is asked."),
    Entry("in_context_query", "modifier", "truing.methods.prompting.in_context_query:InContextQueryModifier", "A derived prompt and its answer, before the prompt."),
    Entry("steering", "modifier", "truing.methods.steering.modifier:SteeringModifier", "A vector added to the output of chosen layers, or projected out of it."),
    Entry("nudging", "modifier", "truing.methods.decoding.nudging:NudgingModifier", "A guide that writes where the model is unsure."),
    Entry("proxy_tuning", "modifier", "truing.methods.decoding.proxy_tuning:ProxyTuningModifier", "The difference of two small models, added to the scores."),
    Entry("ensemble", "modifier", "truing.methods.decoding.ensemble:EnsembleModifier", "The mean of two models' probabilities."),
    Entry("contrastive_decoding", "modifier", "truing.methods.decoding.contrastive_decoding:ContrastiveDecodingModifier", "Scores away from those of an amateur."),
    Entry("best_of_n", "modifier", "truing.methods.decoding.best_of_n:BestOfNModifier", "Sample n answers, keep the best."),
    Entry("grounded_decoding", "modifier", "truing.methods.decoding.grounded:GroundedDecodingModifier", "Grounding functions that weigh each token."),
    Entry("saycan", "modifier", "truing.methods.decoding.saycan:SayCanModifier", "Fixed skills, scored by probability times value."),
    Entry("deal", "modifier", "truing.methods.decoding.deal:DeALModifier", "Tokens chosen by a reward of where they lead."),
    Entry("transfer_q", "modifier", "truing.methods.decoding.transfer_q:TransferQModifier", "Tokens chosen by a reward of what an aligned model makes of them."),
    Entry("args", "modifier", "truing.methods.decoding.args:ARGSModifier", "Tokens chosen by a reward of the unfinished answer."),
    Entry("controlled_decoding", "modifier", "truing.methods.decoding.controlled_decoding:ControlledDecodingModifier", "Tokens chosen by a reward of the model's own continuations."),
)  # fmt: skip


_REGISTERED: list[Entry] = []


def register(entry: Entry) -> None:
    """Make a class of your own known by name to recipes, to the command line's helpers and to saved models.

    Raises:
        SettingsError: its kind is unknown, or another entry of that kind has the name already.
    """
    if entry.kind not in KINDS:
        raise SettingsError(f"`{entry.kind}` is no kind of entry. Kinds: {', '.join(KINDS)}.")
    for other in entries(entry.kind):
        if other.name == entry.name and other != entry:
            raise SettingsError(
                f"There is a {entry.kind} `{entry.name}` already, at {other.home}. Choose another name."
            )
    if entry not in _REGISTERED:
        _REGISTERED.append(entry)


def entries(kind: str | None = None) -> list[Entry]:
    """Everything, or everything of one kind, in catalogue order; what was registered comes last."""
    return [entry for entry in (*ENTRIES, *_REGISTERED) if kind is None or entry.kind == kind]


def find(name: str, kind: str) -> Entry:
    """The entry of that name and kind; an unknown name is an error that suggests the nearest one.

    The class name (``DPO``) and a name with dashes (``best-of-n``) are accepted too.
    """
    wanted = name.replace("-", "_")
    candidates = entries(kind)
    for entry in candidates:
        if wanted.lower() == entry.name or name == entry.export:
            return entry
    names = [entry.name for entry in candidates]
    raise SettingsError(f"There is no {kind} `{name}`.{near(wanted.lower(), names)} Known: {', '.join(names)}.")


def exports() -> dict[str, str]:
    """Class name to module, for everything a user may import from `truing` directly."""
    return {entry.export: entry.home.split(":")[0] for entry in ENTRIES if entry.kind != "modifier"}

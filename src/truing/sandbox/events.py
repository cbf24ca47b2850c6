"""Mild events of a village in pairs, by what the first is to the second."""

from __future__ import annotations

EVENTS: dict[str, tuple[tuple[str, str], ...]] = {
    "unrelated": (
        ("the baker sold dumplings", "the heron left the pond"), ("a child drew a fox", "the ferry came late"),
        ("the school sang a song", "the price of salt rose"), ("somebody lost a ribbon", "the mill was painted"),
        ("the weaver read a poem", "an owl called at night"), ("the twins had porridge", "the well was measured"),
        ("a bell was polished", "the beehive moved"), ("the potter slept long", "the bridge got a name"),
    ),
    "necessary": (
        ("nobody watered the orchard", "the pears dried up"), ("the oil was used up", "the lamp went out"),
        ("the rope tore", "the bucket fell into the well"), ("the ferryman stayed in bed", "the ferry did not sail"),
        ("the miller let the dough lie", "the bread went hard"), ("the shutters were left open", "rain came in"),
        ("the hens got no grain", "the hens were hungry"), ("the ink ran dry", "the letter stayed unfinished"),
    ),
    "not necessary": (
        ("the cook lit the stove", "the kitchen grew warm"), ("a boy threw a pebble", "the pebble flew off"),
        ("the guard rang the bell", "the village woke up"), ("she opened the door", "light came into the barn"),
        ("he dropped the jug", "the jug broke"), ("the girl pushed the cart", "the cart rolled"),
        ("the sun came up", "the ice melted"), ("the drummer beat the drum", "a sound was heard"),
    ),
}  # fmt: skip
# Whether the first is a cause, and whether it must change where the second turns out the other way.
CAUSES = {"unrelated": ("No", "No"), "necessary": ("Yes", "Yes"), "not necessary": ("Yes", "No")}

"""Who plays which role, from what the user wrote."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from evals.clinic import rules
from evals.clinic.backends import local, remote
from evals.clinic.dialogue import Backend, Meter, Players
from evals.generation import Generation
from medgemma.endpoint import Endpoint

if TYPE_CHECKING:
    from medgemma import MedGemma

LOCAL_CONVERSATIONS = 16
"""Held at the same time by a local model; its engine decodes up to 32 replies together."""

ROLE_TOKENS = 200
"""Longest reply of a role that a server plays, as in AgentClinic's code."""

DEFAULT_ROLES = {"patient": "rules", "measurement": "rules", "moderator": "none", "judge": "none"}
"""Repeatable and without a second model. Published figures have a large model in each."""

_RULES: Mapping[str, Backend] = {"patient": rules.patient, "measurement": rules.measurement}


def roles_of(pairs: Sequence[str]) -> dict[str, str]:
    """Return role to player of `ROLE=PLAYER` texts, the default player for a role that is not named.

    A player is `rules` (patient and measurement), `model` (the measured model itself), `none` (moderator, judge), or a
    server as URL or URL#MODEL.

    Raises:
        ValueError: A text is of another form, or the role is unknown or cannot be played so.
    """
    cast = dict(DEFAULT_ROLES)
    for pair in pairs:
        role, _, player = pair.partition("=")
        if role not in cast:
            raise ValueError(f"got the role {pair!r}; expected ROLE=PLAYER with one of {', '.join(cast)}")
        allowed = ["model", "rules" if role in _RULES else "none"]
        if player not in allowed and not player.startswith(("http://", "https://")):
            raise ValueError(f"role {role}: got {player!r}; expected {', '.join(allowed)}, or a server's URL[#MODEL]")
        cast[role] = player
    return cast


def cast(
    model: Backend, fingerprint: str, roles: Mapping[str, str], open_server: Callable[[str], tuple[Backend, str]]
) -> Players:
    """Return the players of a run.

    Args:
        model: The measured model.
        fingerprint: Of it.
        roles: As `roles_of` returns them.
        open_server: URL[#MODEL] to the backend there and its fingerprint; called once a server.
    """
    others: dict[str, Backend] = {}
    names: dict[str, str] = {}
    opened = cache(open_server)
    for role, player in roles.items():
        if player == "model":
            others[role], names[role] = model, "model"
        elif player == "rules":
            others[role], names[role] = _RULES[role], rules.VERSION
        elif player != "none":
            others[role], names[role] = opened(player)
    return Players(model, fingerprint, others, names)


def open_server(address: str) -> tuple[Backend, str]:
    """Return the backend at URL[#MODEL] and its fingerprint; replies have up to ROLE_TOKENS tokens, greedy.

    Raises:
        ValueError: The URL is none.
        EndpointRefused: The server cannot be reached, or does not list exactly one model and none is named.
    """
    url, _, name = address.partition("#")
    server = Endpoint(url, name or None)
    return remote(server, Generation(max_new_tokens=ROLE_TOKENS), Meter()), server.fingerprint


def local_players(model: "MedGemma", roles: Mapping[str, str], generation: Generation) -> Players:
    """Return the players of a run whose measured model is a local one.

    Raises:
        ValueError: As `open_server`, or the model is to think and cannot.
    """
    meter = Meter()
    players = cast(local(model, generation, meter), model.fingerprint, roles, open_server)
    return replace(players, identity=model.identity, meter=meter, at_once=LOCAL_CONVERSATIONS)


def server_players(server: Endpoint, roles: Mapping[str, str], generation: Generation) -> Players:
    """Return the players of a run whose measured model is on a server.

    Raises:
        ValueError: As `open_server`.
    """
    meter = Meter()
    return replace(cast(remote(server, generation, meter), server.fingerprint, roles, open_server), meter=meter)

"""What a policy's network computes, as JSON that a runner without JAX can follow."""

from typing import Any

from ridgeline.algorithms import REGISTRY
from ridgeline.algorithms.naf import NormalisedAdvantage
from ridgeline.encoders import CONVOLUTION_STRIDES, Encoder
from ridgeline.networks import ActionValues, Actor, ActorCritic, DeterministicActor, PolicyHead
from ridgeline.types import Algorithm, Continuous


def describe(algorithm: Algorithm[Any, Any], policy: Any) -> dict[str, Any]:
    """`encoder` and `head` of the network that acts greedily, arrays named by their paths; or why it `needs` JAX.

    `head.kind` is one of categorical (argmax of the logits), gaussian (the mean), tanh-gaussian (tanh of the first
    half), deterministic (tanh) and action-values (argmax of Q); tanh is of bounded entries only.
    """
    network = getattr(policy, "network", None)
    # What another class does with such a network nobody knows.
    if not any(type(algorithm).greedy is known.greedy for known in REGISTRY.values()):
        return {"needs": f"{type(algorithm).__name__} acts in a way of its own"}
    match network:
        case ActorCritic():
            head = _distribution("network/policy", network.policy)
        case Actor():
            head = _distribution("network/head", network.head)
        case DeterministicActor():
            head = {"kind": "deterministic", "linear": "network/linear"}
        case NormalisedAdvantage():
            head = {"kind": "deterministic", "linear": "network/mean"}
        case ActionValues():
            head = {"kind": "action-values", "linear": "network/advantage", "quantiles": network.count}
            head |= {"value": "network/value"} if network.value is not None else {}
        case _:
            return {"needs": f"{type(algorithm).__name__.lower()} searches for its action"}
    if not isinstance(network.encoder, Encoder):
        return {"needs": "the encoder is custom"}
    mlp, at = network.encoder.mlp, "network/encoder"
    encoder = {
        "images": {
            name: _convolutions(f"{at}/images/{name}", cnn) for name, cnn in network.encoder.images.items()
        },
        "layers": [f"{at}/mlp/layers/{i}" for i in range(len(mlp.layers))],
        "activation": mlp.activation,
        "layer_norm": mlp.layer_norm,
    }
    return {"encoder": encoder, "head": head, "normaliser": sorted(policy.normaliser.statistics)}


def _distribution(at: str, head: PolicyHead) -> dict[str, Any]:
    kind = "categorical"
    if isinstance(head.spec, Continuous):
        kind = "tanh-gaussian" if head.squashed else "gaussian"
    return {"kind": kind, "linear": f"{at}/linear"}


def _convolutions(at: str, cnn: Any) -> dict[str, Any]:
    return {"at": at, "strides": list(CONVOLUTION_STRIDES), "channels_first": cnn.channels_first}

"""`edgerl import`: a policy that another program trained, as a policy of edgerl."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgerl.cli.support.output import Force, Json, note, print_json

if TYPE_CHECKING:
    from edgerl.importers.policy_file import ImportReport
    from edgerl.policy.compact import CompactPolicy


def command(
    file: Annotated[
        Path,
        typer.Argument(
            help="ONNX model, TorchScript, .zip of stable-baselines3, .pt of rsl_rl or skrl, folder of a checkpoint of "
            "Brax, .h5 of RLtools, .cleanrl_model.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")] = Path("policy.safetensors"),
    activation: Annotated[
        str | None,
        typer.Option(help="Activation of the hidden layers, where the file does not say it: elu, relu, tanh, silu, …"),
    ] = None,
    normalizer: Annotated[
        str | None,
        typer.Option(
            help="Statistics of observations: vecnormalize.pkl, an .npz with mean and var, parameters of Brax, or none."
        ),
    ] = None,
    env: Annotated[str | None, typer.Option(help="Environment that the policy is for.")] = None,
    contract: Annotated[
        Path | None,
        typer.Option(help="Observation terms, joints, gains and rate: deploy.yaml of unitree_rl_lab."),
    ] = None,
    external_data: Annotated[
        bool, typer.Option("--external-data", help="Read weights of an ONNX model from files beside it.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Compare with the original on 1000 observations.")] = True,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Turn a policy that another program trained into a policy.safetensors, for every other command.

    The actions are compared with the original's, by onnxruntime or PyTorch; where they differ, nothing is written.

    Example: edgerl import model_1500.pt --activation elu -o policy.safetensors
    """
    from edgerl.importers.policy_file import import_policy

    report = import_policy(
        file,
        output,
        activation=activation,  # type: ignore[arg-type]  # checked there
        normalizer=normalizer,
        env=env,
        contract=contract,
        external_data=external_data,
        check=check,
        force=force,
    )
    for line in report.notes:
        note(line)
    if as_json:
        print_json(report.as_dict())
    else:
        _print(report)


def _print(report: ImportReport) -> None:
    policy = report.policy
    names: list[str] = sorted({layer.activation for layer in policy.layers[:-1]}) or ["no activation"]
    parts = [policy.architecture, " and ".join(names)]
    parts += ["LayerNorm"] * any(layer.norm is not None for layer in policy.layers)
    parts += ["normalised observations"] * (policy.observation_mean is not None)
    print(f"{report.path}: {report.kind}, {', '.join(parts)}, {_actions(policy)}")
    if report.difference is not None:
        print(report.difference.describe().replace("largest action difference", "largest difference to the original"))


def _actions(policy: CompactPolicy) -> str:
    if not policy.is_bounded:
        return "actions without bounds"
    low, high = policy.action_low, policy.action_high
    return f"actions from {low.min():g} to {high.max():g}" + (" by tanh" if policy.head == "tanh" else "")

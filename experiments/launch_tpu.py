"""Runs a script of this project on Cloud TPUs, or prints the commands.

  python -m experiments.launch_tpu --name=stn --zone=us-west4-a --type=v5e-8 \
    -- sweep --seeds=0,1,2,3,4 --workdir=gs://bucket/runs

Prints the commands that ask for a TPU (a queued resource), install the last
commit of this checkout on all of its machines, start the script there, show its
output until it ends, and give the TPU back. With --nodry_run it runs them; they
need gcloud, logged in, and can be rerun: finished runs are skipped, interrupted
ones resumed, also after a spot TPU was taken away. The script checks its flags
on this machine before a TPU is asked for.

On a slice of several hosts `train` trains one network on all chips. `sweep` and
`paper` train independent networks, each too small to be split: use --nodes for
several TPUs of one host, each of which takes its --shard.
"""

from collections.abc import Sequence
import re

from absl import flags

from experiments.lib import cli, tpu_launch, tpu_vm


def main(arguments: Sequence[str]) -> None:
  tpu, nodes, delete = tpu_vm.parse(_TYPE.value), _NODES.value, _DELETE.value
  tpu_launch.check(_NAME.value, tpu, arguments, nodes, delete)
  plans = []
  for index in range(nodes):
    node = tpu_vm.Node(
      name=_NAME.value if nodes == 1 else f"{_NAME.value}-{index}",
      tpu=tpu,
      zone=_ZONE.value,
      project=_PROJECT.value,
      spot=_SPOT.value,
    )
    shard = [f"--shard={index}/{nodes}"] if nodes > 1 else []
    plans.append(node.steps([*arguments, *shard], delete=delete))
  if _DRY_RUN.value:
    tpu_launch.print_steps(plans)
  else:
    tpu_launch.launch_all(plans, delete=delete)


if __name__ == "__main__":
  _NAME = flags.DEFINE_string("name", "stnjax", "Name of the TPU.")
  _TYPE = flags.DEFINE_string(
    "type", "v5e-8", "Type of the TPU, such as v5e-8, v5e-64 or v4-32."
  )
  _ZONE = flags.DEFINE_string("zone", None, "Zone of Google Cloud.")
  _PROJECT = flags.DEFINE_string(
    "project", None, "Project of Google Cloud. Default: gcloud's."
  )
  _SPOT = flags.DEFINE_boolean(
    "spot", False, "Spot TPU: cheaper, and may be taken away."
  )
  _NODES = flags.DEFINE_integer(
    "nodes", 1, "Number of TPUs, which take a shard of the runs each.", 1, 1000
  )
  _DELETE = flags.DEFINE_boolean(
    "delete", True, "Delete the TPU and its disk at the end."
  )
  _DRY_RUN = flags.DEFINE_boolean("dry_run", True, "Only print the commands.")
  flags.mark_flag_as_required("zone")
  for _flag in ("zone", "project"):
    flags.register_validator(
      _flag,
      lambda value: value is None or re.fullmatch("[-a-z0-9.:]+", value),
      "must be a name of Google Cloud",
    )
  cli.run(main, takes_arguments=True)

"""Flags of the benchmarks that cannot be used: one clear line for each."""

import pytest

from experiments.bench import sampling, shapes
from tests import scripts


@pytest.mark.parametrize(
  "values, message",
  [
    (["2x8x8"], "--shapes='2x8x8' is not a shape; accepted: BATCHxHEIGHTx"),
    (["2x8x8x٣"], "--shapes='2x8x8x٣' is not a shape"),
    (["0x8x8x1"], "--shapes='0x8x8x1' is not a shape"),
    (["axbxcxd"], "--shapes='axbxcxd' is not a shape"),
    (["2x8x8x1", "2x8x8x1"], "--shapes must differ"),
    ([], "--shapes is empty"),
    (["99999x99999x9x9"], "--shapes.*2,147,483,647"),
  ],
)
def test_shapes(values, message):
  with pytest.raises(ValueError, match=message):
    shapes.parse(values)


def test_shapes_read_back():
  (shape,) = shapes.parse(["256x28x28x1"])
  assert shape == (256, 28, 28, 1)
  assert shapes.text(shape) == "256x28x28x1"


@pytest.mark.parametrize(
  "names, message",
  [
    (["pillow"], "--peers='pillow' is unknown; accepted: torch"),
    (["deterministic"], "--peers='deterministic' is not available"),
    (["copy", "copy"], "--peers must differ"),
    ([], "--peers is empty"),
  ],
)
def test_peers(names, message):
  with pytest.raises(ValueError, match=message):
    sampling.chosen_peers(names)


CASES = [
  ("bench_sampling --shapes=2x8x8", "--shapes='2x8x8' is not a shape"),
  ("bench_scaling --rounds=0", "--rounds=0"),
  ("bench_training --steps=157", "--steps must be at most 156"),
  ("bench_gpu_compile --shapes=2x8x8", "--shapes='2x8x8' is not a shape"),
  ("bench_tpu_compile --steps=rotation", "--steps='rotation' is unknown"),
]
MORE = [
  ("bench_sampling --method=area", "--method"),
  ("bench_sampling --rounds=0", "--rounds=0"),
  ("bench_sampling --peers=", "--peers is empty"),
  ("bench_sampling now", "unexpected argument 'now'"),
  ("bench_training --networks=CNN,CNN", "--networks must differ"),
  ("bench_training --networks=STN-SL1x99999", "runs the transformer too often"),
  ("bench_training --width=nan", "width must be positive"),
  ("bench_training --steps=0", "--steps=0"),
  ("bench_training --seeds=9999999", "--seeds=9999999"),
  ("bench_training --protocol=svhn", "--protocol=svhn"),
  ("bench_training --shapes=2x8x8x1", "shapes"),
  ("bench_gpu_compile --kernel=torch", "--kernel"),
  ("bench_tpu_compile --batch_per_chip=0", "--batch_per_chip=0"),
  ("bench_tpu_compile --shapes= --steps=", "--shapes and --steps are both"),
]


@pytest.mark.parametrize(
  "words, message",
  [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)],
)
@pytest.mark.slow
def test_scripts_end_with_one_line(words, message, tmp_path):
  script, *flags = words.split()
  done = scripts.run(script, *flags, f"--output={tmp_path}/results")
  assert done.returncode == 1
  lines = done.stderr.splitlines()
  assert len([line for line in lines if message in line]) == 1, done.stderr
  assert len(lines) <= 2  # the second of absl's is how to get help
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
  "output, message",
  [
    ("/dev/null/x", "--output=/dev/null/x cannot be created"),
    ("", "--output='' is not supported"),
  ],
)
def test_folders_that_cannot_be_used(output, message):
  done = scripts.run("bench_scaling", f"--output={output}")
  assert done.returncode == 1
  assert message in done.stderr
  assert "Traceback" not in done.stderr

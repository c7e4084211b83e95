"""What makes two runs the same run, and how a run differs from others."""

from pipeline.train.supervise.identity import Identity


def test_a_nearly_identical_run_is_named_once(training, tmp_path):
    for name, rank in (("other", 8), ("run", 4)):
        folder = tmp_path / name / "run"
        folder.mkdir(parents=True)
        Identity("train", {"lora.rank": rank}, {}).write(folder)
    (tmp_path / "run/other").symlink_to(tmp_path / "other/run")
    (tmp_path / "other/run/step-00000007").mkdir()
    run = training().start()
    run.wait_for_step(3)
    run.process.kill()
    run.process.wait()
    run.complete()
    assert run.text().count("stands at step 7; it differs in lora.rank: 8 -> 4") == 1

"""Several gloo processes equal one: the value and every gradient of every loss, by groups of two and of four."""

import json
from pathlib import Path

import pytest
import slow_losses as slow
import torch
import torch.multiprocessing as multiprocessing
import workers


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of four processes found; one start for all tests, since importing torch is what takes the time."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.start_processes(workers.work, (str(folder),), nprocs=4, start_method="spawn")
    return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(4)]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", [*workers.contrastive_cases(), "itm", "fetch"])
def test_a_group_equals_one_process(results, name, size):
    for rank, found in enumerate(results):
        for what, error in found[f"{name} on {size}"].items():
            assert error < 1e-9, f"{what} on process {rank}: relative error {error:.2g}"


def test_a_ddp_step_of_all_objectives_equals_one_process(results):
    model = workers.Towers()
    loss = model(workers.Batch())
    loss.backward()
    for found in results:
        assert found["ddp"]["value"] == pytest.approx(loss.item(), rel=1e-9)
        for name, parameter in model.named_parameters():
            gradient = torch.tensor(found["ddp"][name], dtype=torch.float64)
            torch.testing.assert_close(gradient, parameter.grad.flatten(), rtol=1e-8, atol=1e-10)


def test_matching_draws_negatives_on_all_processes(results):
    batch = workers.Batch()
    case = {"present": batch.present, "image_ids": batch.image_ids, "text_ids": batch.text_ids}
    share = workers.B // 4
    # a process without a caption judges one pair that does not count, so that all take part
    judged = [
        (rank, *pair)
        for rank, found in enumerate(results)
        for pair in found["itm pairs"]
        if batch.present[rank * share : (rank + 1) * share].any()
    ]
    with_captions = batch.present.any(1).sum().item()
    assert sum(match for *_, match in judged) == with_captions
    assert all(batch.present.flatten()[caption] for _, _, caption, _ in judged)
    for rank, image, caption, match in judged:
        owner, slot = divmod(caption, workers.K)
        own = range(rank * share, (rank + 1) * share)
        assert image in own or owner in own
        assert match or not slow.left_out(image, owner, slot, case)
    assert any(image // share != caption // workers.K // share for _, image, caption, _ in judged)


@pytest.mark.parametrize("loss", ["1-to-K", "siglip"])
def test_images_are_gathered_and_not_texts(results, loss):
    for found in results:
        traffic = found["traffic on 4"]
        assert 0 < 6 * traffic[loss]["bytes"] <= traffic["texts"]["bytes"]


def test_the_losses_of_a_step_share_what_they_gather(results):
    for found in results:
        exact, rounded = (found["traffic on 4"][f"all as {wire}"] for wire in ("None", "torch.bfloat16"))
        assert exact["all_gather_into_tensor"] == 3  # the images' rows, their ids and the texts' ids
        assert exact["torch.float32"] == 1 and rounded["torch.bfloat16"] == 1 and "torch.float32" not in rounded
        assert rounded["value"] == pytest.approx(exact["value"], rel=1e-2) and rounded["value"] != exact["value"]

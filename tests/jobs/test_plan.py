"""A plan's figures, its refusals, and where it finds the shape of models that do not exist yet."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import plan
from jobs.entry import EXIT_CONFIG
from jobs.plan_check import VLLM_ARCHITECTURES
from moss.config.model import ModelConfig
from moss.models import PreferenceModel, build_policy, save_model, save_preference_model

NODE = ["--node-cpus", "96", "--node-gpus", "0", "--node-memory-gib", "64"]
GPU_NODE = [
    "--node-cpus", "96", "--node-gpus", "8", "--device-memory-gib", "80",
    "--node-memory-gib", "1000",
]  # fmt: skip
SMALL_MODEL = [
    "--set", "model.hidden_size=64", "--set", "model.num_layers=2", "--set", "vocab_size=512",
]  # fmt: skip


@pytest.fixture
def shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the job; exit code, text, the JSON of its last line, errors."""

    def run(*argv: str) -> tuple[int, str, Any, str]:
        code = plan.main([*argv, "--workspace", str(tmp_path / "runs"), "--json"])
        out, err = capsys.readouterr()
        *text, record = out.splitlines() or [""]
        return code, "\n".join(text), json.loads(record) if record else None, err

    return run


@pytest.mark.parametrize("size", ["tiny", "micro", "small"])
def test_a_shipped_road_that_never_ran_is_planned_and_fits(size: str, shown: Any) -> None:
    code, text, record, err = shown("--config", size, *NODE)
    assert (code, err) == (0, "")
    assert record["fits"]
    assert [seat["role"] for seat in record["seats"]] == [
        "rollout", "policy", "critic", "reference", "reward",
    ]  # fmt: skip
    assert "with the most tokens its tokenizer can get" in text
    (node,) = record["places"]
    total = sum(
        sum(memory["device"].values()) + sum(memory["host"].values())
        for memory in record["memory"].values()
    )
    assert sum(node["needed"].values()) == total


def test_a_stage_of_a_road_is_planned_with_what_the_road_sets(shown: Any) -> None:
    _, text, record, _ = shown("--config", "micro", *NODE)
    assert record["iteration"]["num_rollouts"] == 8
    assert record["iteration"]["micro_batches"] == 1
    assert record["num_iterations"] == 2
    assert "8 prompts x 1 response = 8 rollouts of at most 208 tokens" in text
    _, _, record, _ = shown("--config", "micro", *NODE, "--set", "ppo.micro_batch_size=1")
    assert record["iteration"]["micro_batches"] == 4


def test_the_paper_run_fits_five_nodes_of_eight_gpus(shown: Any) -> None:
    code, text, record, err = shown("--config", "paper", *GPU_NODE, "--num-nodes", "5")
    assert (code, err) == (0, "")
    assert record["fits"]
    assert record["num_parameters"]["policy"] == pytest.approx(16.7e9, rel=0.01)
    assert record["num_iterations"] == 3125
    assert "one pass over the prompts, at most 3,125, 3,125 optimizer steps" in text
    assert "2 sequences at once, 3.2 GiB of keys and values" in text
    # ZeRO-3 over eight ranks: bf16 weights and gradients, two moments and a copy in fp32.
    memory = record["memory"]["policy"]
    state = memory["device"]
    trained = state["weights"] + state["gradients"] + state["optimizer"]
    assert trained == pytest.approx(16 * record["num_parameters"]["policy"] / 8)
    assert state["sharding"] > 0
    # Every rank reads the checkpoint; one gathers what is published.
    assert memory["host"]["weights"] == 4 * memory["other_host"]["weights"]
    assert "a minibatch: 32 rollouts in 1 micro-batch of at most 4" in text


def test_the_paper_policy_in_one_actor_is_refused(shown: Any) -> None:
    keys = ("num_ranks=1", "zero_stage=0", "precision=fp32", "gradient_checkpointing=false")
    sets = [word for key in keys for word in ("--set", f"actors.policy.{key}")]
    code, _, record, err = shown("--config", "paper", *GPU_NODE, "--num-nodes", "5", *sets)
    # fp32 weights, gradients and two moments of all parameters in the one actor of a trained role.
    state = record["memory"]["policy"]["device"]
    trained = state["weights"] + state["gradients"] + state["optimizer"]
    assert trained == 16 * record["num_parameters"]["policy"]
    assert code == EXIT_CONFIG
    assert not record["fits"]
    for part in (
        "node 2 GPU 0: ",
        "by policy[0], 80.0 GiB present",
        "more ranks of a trained role",
    ):
        assert part in err


def test_vllm_is_refused_for_the_paper_model(shown: Any) -> None:
    argv = ["--config", "paper", *GPU_NODE, "--num-nodes", "5", "--set", "rollout.engine=vllm"]
    code, _, _, err = shown(*argv)
    assert code == EXIT_CONFIG
    assert "vLLM runs llama and no codegen; set rollout.engine=transformers" in err


def test_the_paper_vocabulary_gives_the_original_count(shown: Any) -> None:
    _, _, record, _ = shown("--config", "paper", *GPU_NODE, "--set", "vocab_size=107008")
    assert record["num_parameters"]["policy"] == pytest.approx(16.718e9, rel=1e-4)


def test_gpus_that_are_not_there_are_counted(shown: Any) -> None:
    code, text, _, err = shown("--config", "paper", *NODE)
    assert code == EXIT_CONFIG
    assert "40 GPU needed" in err
    assert "1 x (96 CPU, 0 GPU) present. Add nodes, or lower num_cpus, num_gpus" in err
    assert ["policy[0]", "none", "-"] in [line.split()[:3] for line in text.splitlines()]


def test_the_largest_micro_batch_that_fits_is_named_and_fits(shown: Any) -> None:
    narrow = ["--config", "tiny", "--node-cpus", "2", "--node-gpus", "0", *SMALL_MODEL,
              "--set", "model.max_positions=4096", "--set", "rollout.max_prompt_tokens=3000",
              "--set", "ppo.num_minibatches=1", "--set", "ppo.micro_batch_size=32"]  # fmt: skip
    _, _, record, _ = shown(*narrow, "--node-memory-gib", "64")
    needed = sum(record["places"][0]["needed"].values())
    memory = ["--node-memory-gib", str(needed * 0.9 / (1 << 30))]
    code, _, _, err = shown(*narrow, *memory)
    assert code == EXIT_CONFIG
    rows = int(err.rpartition("Set ppo.micro_batch_size=")[2].partition(",")[0])
    assert 1 <= rows < 32
    assert shown(*narrow, *memory, "--set", f"ppo.micro_batch_size={rows}")[0] == 0
    assert shown(*narrow, *memory, "--set", f"ppo.micro_batch_size={rows + 1}")[0] == EXIT_CONFIG


def test_a_node_too_small_for_the_processes_alone_names_no_micro_batch(shown: Any) -> None:
    code, _, _, err = shown("--config", "tiny", *NODE[:4], "--node-memory-gib", "1")
    assert code == EXIT_CONFIG
    assert "1.0 GiB present" in err
    assert "stay whatever the batch" in err
    assert "or a smaller rollout.vllm.kv_cache_gib" in err


def test_a_cache_below_one_sequence_is_refused_and_one_below_all_is_told(shown: Any) -> None:
    few = ["--config", "tiny", *NODE, "--set"]
    code, text, _, _ = shown(*few, "rollout.vllm.kv_cache_gib=0.002")
    assert code == 0
    assert "holds 3 of 32 sequences of the longest kind" in text
    code, _, _, err = shown(*few, "rollout.vllm.kv_cache_gib=0.0001")
    assert code == EXIT_CONFIG
    assert "holds no sequence of 208 tokens, which takes 624 KiB; raise it" in err


def test_sequences_beyond_the_positions_are_refused(shown: Any) -> None:
    code, _, _, err = shown("--config", "tiny", *NODE, "--set", "rollout.max_prompt_tokens=400")
    assert code == EXIT_CONFIG
    assert "400 + max_new_tokens=48 = 448 tokens, the policy has 384 positions" in err


def test_vllm_starts_on_a_shared_gpu_only_where_its_share_is_left(shown: Any) -> None:
    shared = ["--config", "tiny", *GPU_NODE, "--set", "actors.rollout.num_gpus=0.5", "--set",
              "actors.policy.num_gpus=0.5"]  # fmt: skip
    code, _, record, _ = shown(*shared)
    assert code == 0
    device = record["memory"]["policy"]["device"]
    held = sum(device.get(part, 0) for part in ("weights", "gradients", "optimizer", "sharding"))
    half = [str(held * factor / (1 << 30)) for factor in (2.1, 1.9)]
    assert "vLLM starts only" not in shown(*shared, "--device-memory-gib", half[0])[3]
    code, _, _, err = shown(*shared, "--device-memory-gib", half[1])
    assert code == EXIT_CONFIG
    assert "rollout[0] shares a GPU with policy[0], which hold " in err
    assert "vLLM starts only where the share of its actor, 50%, is free; lower actors" in err


def test_roles_of_a_group_sit_on_one_gpu_and_groups_where_the_strategy_says(shown: Any) -> None:
    sets = [f"actors.{role}.num_gpus=0.5" for role in ("policy", "critic", "rollout")]
    sets += ["actors.reference.num_gpus=1", "actors.policy.num_ranks=2"]
    sets += ["placement.groups=[[rollout, policy], [reference, critic]]"]
    words = [word for item in sets for word in ("--set", item)]
    gpus = ["--config", "tiny", *GPU_NODE, "--num-nodes", "2", *words]

    def seats(*strategy: str) -> dict[str, tuple[int | None, list[int]]]:
        _, _, record, _ = shown(*gpus, *strategy)
        return {f"{s['role']}{s['rank']}": (s["node"], s["gpus"]) for s in record["seats"]}

    assert seats() == {
        "rollout0": (0, [0]),
        "policy0": (0, [0]),
        "policy1": (0, [1]),
        "critic0": (0, [2]),
        "reference0": (0, [3]),
        "reward0": (0, []),
    }
    assert seats("--set", "placement.strategy=SPREAD") == {
        "rollout0": (0, [0]),
        "policy0": (0, [0]),
        "policy1": (1, [0]),
        "critic0": (0, [1]),
        "reference0": (0, [2]),
        "reward0": (1, []),
    }
    strict = ["--set", "placement.strategy=STRICT_SPREAD"]
    assert [name for name, (node, _) in seats(*strict).items() if node is None] == [
        "critic0", "reference0", "reward0",
    ]  # fmt: skip
    _, _, _, err = shown(*gpus, *strict)
    assert "5 GPU needed" not in err
    assert "4 GPU needed" in err
    assert "in 4 bundles of whole GPUs" in err
    assert "or loosen `placement`" in err


def test_a_strategy_without_groups_is_obeyed(shown: Any) -> None:
    spread = ["--config", "tiny", *NODE, "--set", "placement.strategy=STRICT_SPREAD"]
    code, _, record, err = shown(*spread)
    assert (code, record["fits"]) == (2, False)
    assert "no node has room" in err
    assert "or loosen `placement`" in err


def test_a_sleeping_engine_counts_in_turn_with_what_shares_its_gpu(shown: Any) -> None:
    sets = ["actors.rollout.num_gpus=0.5", "actors.policy.num_gpus=0.5"]
    sets += ["placement.groups=[[policy, rollout]]", "rollout.engine=transformers"]
    words = [word for item in sets for word in ("--set", item)]
    _, _, awake, _ = shown("--config", "tiny", *GPU_NODE, *words)
    _, text, asleep, _ = shown(
        "--config", "tiny", *GPU_NODE, *words, "--set", "rollout.sleep_level=1"
    )
    policy, rollout = (awake["memory"][role]["device"] for role in ("policy", "rollout"))
    held = sum(policy.get(part, 0) for part in ("weights", "gradients", "optimizer", "sharding"))
    assert 0 < held < sum(policy.values())
    phases = {"rollout": held + sum(rollout.values()), "update": sum(policy.values())}
    (gpu, node), (gpu_asleep, node_asleep) = (record["places"] for record in (awake, asleep))
    assert (gpu["phase"], node["phase"]) == ("all", "all")
    assert sum(gpu["needed"].values()) == sum(policy.values()) + sum(rollout.values())
    assert sum(gpu_asleep["needed"].values()) == max(phases.values())
    assert gpu_asleep["phase"] == max(phases, key=lambda phase: phases[phase])
    # On its way to the GPU or asleep, its weights lie in the node's memory once.
    assert sum(node_asleep["needed"].values()) == sum(node["needed"].values())
    assert "the rollout engine sleeps in `update`" in text


def test_stale_responses_without_correction_and_labels_are_told(shown: Any) -> None:
    argv = ["--config", "tiny", *NODE, "--set", "rollout.one_step_off=true"]
    _, text, _, _ = shown(*argv, "--set", "placement.label_selector={pool: a}")
    assert "note: rollout.one_step_off without ppo.importance_cap" in text
    assert "note: placement asks for nodes with labels, which a plan does not know" in text
    assert "note" not in shown(*argv, "--set", "ppo.importance_cap=2")[1]


def test_models_on_gpus_need_memory_there_and_on_their_way_through_the_node(shown: Any) -> None:
    gpus = [f"actors.{role}.num_gpus=1" for role in ("policy", "critic", "reference", "reward")]
    sets = [word for item in gpus for word in ("--set", item)]
    _, _, record, _ = shown("--config", "tiny", *GPU_NODE, *sets)
    places = {(place["node"], place["gpu"]): place for place in record["places"]}
    assert [key for key in places if key[1] is not None] == [(0, gpu) for gpu in range(4)]
    assert places[0, 0]["actors"] == ["policy[0]"]
    assert "process" not in places[0, 0]["needed"]
    assert "gradients" not in places[0, None]["needed"]
    weights = record["memory"]["reference"]["device"]["weights"]
    assert record["memory"]["reference"]["host"]["weights"] == weights


def test_a_gpu_that_is_nearly_full_is_told(shown: Any) -> None:
    argv = ["--config", "tiny", *GPU_NODE, "--set", "actors.policy.num_gpus=1"]
    _, _, record, _ = shown(*argv)
    assert record["notes"] == []
    needed = sum(record["places"][0]["needed"].values())
    tight = ["--device-memory-gib", str(needed / 0.95 / (1 << 30))]
    code, text, _, _ = shown(*argv, *tight)
    assert code == 0
    assert "note: node 0 GPU 0 is 95% full; its driver's context" in text


def test_ranks_spread_over_nodes(shown: Any) -> None:
    nodes = ["--num-nodes", "2", "--node-cpus", "1", "--node-gpus", "0", "--node-memory-gib", "9"]
    _, _, record, _ = shown("--config", "tiny", *nodes, "--set", "actors.reward.num_ranks=3")
    assert [seat["node"] for seat in record["seats"]] == [0, 0, 0, 0, 1, 1, 1]
    assert [place["node"] for place in record["places"]] == [0, 1]
    assert len(record["places"][1]["actors"]) == 3


def test_checkpoints_that_exist_say_the_shapes(tmp_path: Path, shown: Any) -> None:
    shape = ModelConfig(hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64)
    policy = build_policy(shape, vocab_size=640, pad_id=0, eos_id=1, seed=0)
    folder = tmp_path / "runs" / "MOSS-SFT" / "checkpoint"
    save_model(folder, policy, tokenizer_folder=None)
    preference = PreferenceModel.from_policy(folder, seed=0)
    where = tmp_path / "runs" / "preference-model" / "checkpoint"
    save_preference_model(where, preference, tokenizer_folder=None)
    code, text, record, _ = shown("--config", "tiny", *NODE)
    assert code == 0
    assert record["num_parameters"] == {
        "policy": sum(p.numel() for p in policy.parameters()),
        "critic": sum(p.numel() for p in preference.parameters()),
    }
    assert f"shape from {folder}/config.json" in text


def test_a_stage_alone_needs_a_shape_and_says_which_keys_give_it(
    tmp_path: Path, shown: Any
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"ppo": {"num_rollouts": 4}}), encoding="utf-8")
    code, _, record, err = shown("--config", str(file), *NODE)
    assert (code, record) == (EXIT_CONFIG, None)
    assert "policy='MOSS-SFT' has no checkpoint" in err
    assert "set model.hidden_size, model.num_layers, ... and vocab_size, or give --config" in err
    kv_cache = ["--set", "rollout.max_prompt_tokens=128"]
    code, text, record, _ = shown("--config", str(file), *NODE, *SMALL_MODEL, *kv_cache)
    assert code == 0
    assert record["num_iterations"] is None
    assert "iterations: one pass over the prompts" in text


def test_a_shape_without_a_vocabulary_is_refused(shown: Any) -> None:
    code, _, _, err = shown("--config", "tiny", *NODE, "--set", "model.hidden_size=64")
    assert code == EXIT_CONFIG
    assert "model is set but vocab_size is not; set both, or neither" in err


def test_a_road_without_one_ppo_stage_is_refused(tmp_path: Path, shown: Any) -> None:
    file = tmp_path / "road.yaml"
    stage = {"job": "train_tokenizer", "run_id": "tokenizer"}
    file.write_text(yaml.safe_dump({"stages": [stage]}), encoding="utf-8")
    code, _, _, err = shown("--config", str(file), *NODE)
    assert code == EXIT_CONFIG
    assert "has 0 stages of train_ppo, expected 1" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--node-gpus", "4"], "--node-gpus 4 says nothing of their memory; give --device-memory"),
        (["--num-nodes", "0"], "--num-nodes 0 leaves the actors nowhere to sit"),
    ],
)
def test_nodes_that_cannot_be_are_refused(flags: list[str], message: str, shown: Any) -> None:
    code, _, _, err = shown("--config", "tiny", *flags)
    assert code == EXIT_CONFIG
    assert message in err


@pytest.mark.parametrize("flags", [["--node-cpus", "-1"], ["--node-memory-gib", "nan"]])
def test_amounts_that_are_none_are_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        plan.main(flags)
    assert end.value.code == 2


def test_this_machine_is_planned_for_when_no_flag_says_another(shown: Any) -> None:
    _, _, record, _ = shown("--config", "tiny")
    assert record["places"][0]["num_bytes"] > 0


def test_vllm_has_the_architectures_that_plans_let_pass_and_no_other_of_ours() -> None:
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed")
    registry = Path(found.origin).parent / "model_executor" / "models" / "registry.py"
    listed = registry.read_text(encoding="utf-8")
    names = {"llama": "LlamaForCausalLM", "codegen": "CodeGenForCausalLM"}
    assert (
        tuple(ours for ours, name in names.items() if f'"{name}"' in listed) == VLLM_ARCHITECTURES
    )

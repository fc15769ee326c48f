"""Actors are summed and seated before the first one starts."""

from actors.placement import Nodes, plan_placement, seat_actors, unseated_problem
from moss.config.ppo_actors import ActorConfig

ONE_GPU = ActorConfig(num_cpus=2, num_gpus=1)


def test_every_rank_is_added_up() -> None:
    roles = {
        "policy": ActorConfig(num_cpus=2, num_gpus=0.5),
        "reward": ActorConfig(num_ranks=3, num_cpus=0.5),
    }
    placement = plan_placement(roles)
    assert (placement.num_cpus, placement.num_gpus) == (3.5, 0.5)
    assert placement.arithmetic == "policy 1 x (2 CPU, 0.5 GPU) + reward 3 x (0.5 CPU, 0 GPU)"


def test_no_node_and_no_gpu_gives_more_than_it_has() -> None:
    roles = {"rollout": ActorConfig(num_ranks=3, num_cpus=3, num_gpus=1), "policy": ONE_GPU}
    nodes = Nodes(count=2, num_cpus=8, num_gpus=2)
    seats = seat_actors(roles, nodes)
    assert unseated_problem(seats, roles, nodes) is None
    for node in range(2):
        held = [seat for seat in seats if seat.node == node]
        assert sum(roles[seat.role].num_cpus for seat in held) <= 8
        gpus = [gpu for seat in held for gpu in seat.gpus]
        assert sorted(gpus) == [0, 1]
    assert [(seat.role, seat.rank) for seat in seats] == [
        ("rollout", 0), ("rollout", 1), ("rollout", 2), ("policy", 0),
    ]  # fmt: skip


def test_fractions_share_a_gpu_and_never_straddle_two() -> None:
    roles = {name: ActorConfig(num_gpus=0.6) for name in "ab"} | {"c": ActorConfig(num_gpus=0.4)}
    seats = seat_actors(roles, Nodes(count=1, num_cpus=2, num_gpus=2))
    assert [seat.gpus for seat in seats] == [(0,), (1,), (0,)]


def test_several_gpus_are_whole_ones_of_one_node() -> None:
    roles = {"reward": ActorConfig(num_gpus=1), "policy": ActorConfig(num_gpus=2)}
    seats = seat_actors(roles, Nodes(count=2, num_cpus=2, num_gpus=2))
    assert [(seat.node, seat.gpus) for seat in seats] == [(0, (0,)), (1, (0, 1))]


def test_fractions_that_add_up_to_what_there_is_fit() -> None:
    roles = {str(index): ActorConfig(num_cpus=0.2) for index in range(10)}
    assert all(seat.node == 0 for seat in seat_actors(roles, Nodes(1, num_cpus=2, num_gpus=0)))


def test_who_finds_no_seat_is_named_with_the_sum() -> None:
    roles = {"policy": ONE_GPU, "critic": ONE_GPU}
    nodes = Nodes(count=1, num_cpus=8, num_gpus=1)
    seats = seat_actors(roles, nodes)
    assert [seat.node for seat in seats] == [0, None]
    problem = unseated_problem(seats, roles, nodes)
    assert problem is not None
    assert problem.startswith("critic[0]: no node has room. 4 CPU and 2 GPU needed (policy 1 x")
    assert "1 x (8 CPU, 1 GPU) present. Add nodes, or lower" in problem

"""Operations of one training step in closed form.

Counted are matrix products, a multiply-add as 2, as torch's counter does. A linear layer i → o on r rows is a product
of 2·r·i·o, and its backward pass two more of that size: one for its weights, one for its input. The second one is not
made where no gradient of the input is asked for. All counts are for a batch: forward, loss and backward.
"""

from __future__ import annotations

from anm_nb.config import ParameterError
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.networks import FEEDFORWARD
from anm_nb.ranking.train import RankingConfig

LEVEL_DIM = 128  # of the level embedding's sinusoids and of its two layers, as published


def ranking_operations(config: RankingConfig) -> int:
    """One training step of the ranking model, its controller not frozen.

    Per array of L items at width w, with feed-forward layers f·w wide, a block is 2L·(4 + 2f)·w² in its linear layers
    (queries, keys and values 3w², output w², feed-forward 2f·w²) and 2·2L²·w in attention (QKᵀ and its product with
    V): linear in L where L ≪ (2 + f)·w, quadratic beyond. The encoder applies one, the iteration one T times.
    A controller of state c reads L tokens (or one mean): its fast cell is a product of 3c·(w + 2c) and its
    logits one of 2c·heads every iteration, its slow cell one of 3c·2c every `hrm_period` iterations; without a slow
    state it is 3c·(w + c) and c·heads. Features beyond the hidden flag are one product with their map to w.
    The backward pass is twice the forward one, over all iterations or the last, less what nobody asks for: the
    gradient by the values that enter, and by the controller's states before the first iteration with a gradient.
    Raises `ParameterError` for the pointer decoder and for a controller that is not trained, whose costs are others.
    """
    if config.loss == "cross_entropy":
        raise ParameterError(f"loss = '{config.loss}': the closed form is that of a score decoder, not of pointers")
    if config.has_controller and not config.learns_routing:
        raise ParameterError("trained_routing = False: the closed form is that of a controller that is trained")
    items, width, state, iterations = config.size, config.width, config.controller_width, config.max_inner_iters
    half, slow_state = width // 2 or 1, state if config.slow_state else 0
    read = {"uniform": 0, "random": 0, "sequence": 1, "token": items}[config.routing]
    block = linear(items, width, (4 + 2 * FEEDFORWARD) * width) + 2 * linear(items, width, items)
    fast = linear(read, width + slow_state, 3 * state) + linear(read, state, 3 * state)
    slow = 2 * linear(read, slow_state, 3 * slow_state)
    iteration = block + fast + linear(read, state + slow_state, config.n_heads)
    entering = linear(items, 1, half) + linear(items, max(0, config.make_task().x_dim - 2), width)
    encoder = entering + linear(items, half, width) + block
    supervised = (iterations if config.deep_supervision else 1) * linear(items, width, 1)
    updates = iterations // config.hrm_period
    forward = encoder + iterations * iteration + updates * slow + supervised
    if config.gradient == "last":
        iterations, updates = 1, int(iterations % config.hrm_period == 0)
    starts = linear(read, state, 3 * state) + (updates > 0) * linear(read, slow_state, 3 * slow_state)
    backward = 2 * (encoder + iterations * iteration + updates * slow + supervised) - entering - starts
    return config.batch * (forward + backward)


def energy_operations(config: EnergyConfig) -> int:
    """One step of plain denoising of n×n inverses by the published network, data generation included.

    x and y have n² entries each, so at width w the input layer is 2·B·2n²·w and the output layer 2·B·n²·w for a
    batch of B; the two hidden layers, 2·B·w² each, do not know n, and the level's embedding and modulation, once for
    each of K levels, know neither n nor B. With F all of them and G those through which ỹ acts, so not the product
    with x: the energy is F, its score ∇_ỹE one product by the input of each of those, G, and the backward pass through
    the score 2G and through the energy 2F, less the gradients by x, by ỹ and by the sinusoids. A = BBᵀ of the data is
    2n³ a matrix; its inverse is a factorisation, O(n³), and no product that torch counts.
    Raises `ParameterError` for another task, network or head, and with negatives.
    """
    task = config.make_task()
    given = {
        "task": (config.task, "inverse"),
        "network": (config.network or task.network, "mlp"),
        "head": (config.head, "squared_norm"),
        "negatives": (config.method, "none"),
    }
    for name, (value, known) in given.items():
        if value != known:
            raise ParameterError(f"{name} = '{value}': the closed form is that of {name} = '{known}'")
    batch, width = config.loop.batch, config.width
    of_x, of_y = linear(batch, task.x_dim, width), linear(batch, task.y_dim, width)
    through = of_y + 2 * linear(batch, width, width) + linear(batch, width, task.y_dim)
    sinusoids = linear(config.levels, LEVEL_DIM, LEVEL_DIM)
    levels = 2 * sinusoids + 2 * linear(config.levels, LEVEL_DIM, 2 * width)
    data = batch * linear(config.size, config.size, config.size)
    return data + 3 * (through + of_x + levels) + 3 * through - (of_x + of_y) - sinusoids


def linear(rows: int, inputs: int, outputs: int) -> int:
    """Operations of a linear layer on so many rows: a multiplication and an addition for each weight and row."""
    return 2 * rows * inputs * outputs

"""A log as a graph of operators, tensors and storages in flat arrays, and the schedule that runs it.

Numbers are indices in order of creation: constants, call results and mutated copies all count, and an operator's
outputs are adjacent. Compressed rows (CSR) are a pair `x_ptr`, `x`: row i is `x[x_ptr[i]:x_ptr[i + 1]]`.
Translation (the published simulator's): a constant is an operator of no cost that is computed and pinned; a mutation
is copied on write: a pure operator with one new storage for each mutated position, of the size of the mutated tensor's
storage, to which the name then moves; every name whose tensor is still referred to at the end pins it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from frugal.dtr.errors import LogError
from frugal.dtr.logs import KINDS, Log

COMPUTE, GET, RELEASE, PIN = range(4)  # `Graph.action`
_CONSTANT, _CALL, _MUTATE, _COPY, _COPY_FROM, _RELEASE, _PIN = range(len(KINDS))


@dataclass(frozen=True, eq=False)
class Graph:
    """int64 arrays of O operators, T tensors, S storages and A steps of the schedule.

    op_cost [O]: ns. op_total [O]: bytes of all outputs. op_row [O]: the log's row. op_constant [O]: bool.
    op_first [O + 1]: an operator's outputs are the tensors op_first[o] … op_first[o + 1] - 1.
    op_in_ptr [O + 1], op_in: input tensors in order, with duplicates.
    tensor_op, tensor_storage [T]; tensor_size [T]: own bytes, 0 for a view.
    child_ptr [T + 1], child: for every occurrence as an input, all outputs of that operator, in order of creation.
    storage_size [S]: bytes; member_ptr [S + 1], member: the tensors that live in it, in order; the first is the root.
    action, target [A]: COMPUTE an operator, GET or RELEASE or PIN a tensor.
    """

    op_cost: np.ndarray
    op_total: np.ndarray
    op_row: np.ndarray
    op_constant: np.ndarray
    op_first: np.ndarray
    op_in_ptr: np.ndarray
    op_in: np.ndarray
    tensor_op: np.ndarray
    tensor_storage: np.ndarray
    tensor_size: np.ndarray
    child_ptr: np.ndarray
    child: np.ndarray
    storage_size: np.ndarray
    member_ptr: np.ndarray
    member: np.ndarray
    action: np.ndarray
    target: np.ndarray


def lower(log: Log) -> Graph:
    """The graph of a log. Raises LogError, with the line or the row, for a program that cannot be."""
    table = log.table
    kinds = np.asarray(table.column("instr").combine_chunks().dictionary_encode().indices, np.int64)
    words = table.column("instr").combine_chunks().dictionary_encode().dictionary.to_pylist()
    unknown = [word for word in words if word not in KINDS]
    if unknown:
        row = int(np.flatnonzero(kinds == words.index(unknown[0]))[0])
        raise _error(log, row, f"the instruction {unknown[0]!r} is not known: allowed are {', '.join(KINDS)}")
    kind = np.array([KINDS.index(word) for word in words] or [0], np.int64)[kinds]
    cost = np.asarray(table.column("cost_ns").combine_chunks(), np.int64)
    (args_ptr, args), (results_ptr, results), (sizes_ptr, sizes), (aliases_ptr, aliases), (mutated_ptr, mutated) = (
        _rows(table.column(name)) for name in ("args", "results", "sizes", "aliases", "mutated")
    )
    names, dense = np.unique(np.concatenate([args, results]), return_inverse=True)
    args_dense, results_dense = np.split(dense, [len(args)])
    code, row, detail, *parts = _lower(
        kind, cost, args_ptr, args_dense, results_ptr, results_dense, sizes_ptr, sizes, aliases_ptr, aliases,
        mutated_ptr, mutated, len(names),
    )  # fmt: skip
    if code:
        raise _error(log, row, _sentence(code, detail, names, log.spelled))
    op_cost, op_row, op_first, op_in_ptr, op_in, tensor_storage, tensor_size, storage_size, action, target = parts
    tensors, operators = len(tensor_storage), len(op_cost)
    tensor_op = np.repeat(np.arange(operators), np.diff(op_first))
    sums = np.concatenate([[0], np.cumsum(tensor_size)])
    child_ptr, child = _children(op_first, op_in_ptr, op_in, tensors)
    return Graph(
        op_cost=op_cost,
        op_total=sums[op_first[1:]] - sums[op_first[:-1]],
        op_row=op_row,
        op_constant=kind[op_row] == _CONSTANT,
        op_first=op_first,
        op_in_ptr=op_in_ptr,
        op_in=op_in,
        tensor_op=tensor_op,
        tensor_storage=tensor_storage,
        tensor_size=tensor_size,
        child_ptr=child_ptr,
        child=child,
        storage_size=storage_size,
        member_ptr=np.concatenate([[0], np.cumsum(np.bincount(tensor_storage, minlength=len(storage_size)))]),
        member=np.argsort(tensor_storage, kind="stable"),
        action=action,
        target=target,
    )


def _rows(column: object) -> tuple[np.ndarray, np.ndarray]:
    """A list column as offsets from 0 and flat values, int64."""
    array = column.combine_chunks()
    offsets = np.asarray(array.offsets, np.int64)
    return offsets - offsets[0], np.asarray(array.flatten(), np.int64)


_DAMAGE = (
    "",
    "its lists do not fit the instruction: see frugal.dtr.logs.Instruction",
    "it reads the name {name}, which nothing before it defines",
    "it defines the name {name} a second time",
    "the alias {detail} is neither -1 nor the position of an argument",
    "the mutated position {detail} is not the position of an argument",
    "a time or a size is {detail}; it must not be negative",
    "all sizes, or all times, together pass 2^62: they cannot be bytes and nanoseconds",
)
_LISTS, _UNKNOWN, _TWICE, _ALIAS, _POSITION, _NEGATIVE, _HUGE = range(1, len(_DAMAGE))


def _sentence(code: int, detail: int, names: np.ndarray, spelled: tuple[str, ...] | None) -> str:
    name = ""
    if code in (_UNKNOWN, _TWICE):
        number = int(names[detail])
        name = spelled[number] if spelled else str(number)
    return _DAMAGE[code].format(name=name, detail=detail)


def _error(log: Log, row: int, sentence: str) -> LogError:
    instr, op = log.table.column("instr")[row].as_py(), log.table.column("op")[row].as_py()
    where = int(log.lines[row]) if log.lines is not None else row
    place = "line" if log.lines is not None else "row"
    return LogError(f"{log.source}, {place} {where}: {f'{instr} {op}'.strip()}: {sentence}", where=where)


@numba.njit(cache=True, nogil=True)
def _lower(
    kind, cost, args_ptr, args, results_ptr, results, sizes_ptr, sizes, aliases_ptr, aliases, mutated_ptr, mutated,
    n_names,
):  # fmt: skip
    """(code, row, detail, arrays of Graph): the first row that cannot be, or code 0 and everything.

    Bounds: an operator a row, a tensor a result or mutated position, a step for each of these, two for the others.
    """
    rows = len(kind)
    most = len(results) + len(mutated)
    op_cost, op_row = np.empty(rows, np.int64), np.empty(rows, np.int64)
    op_first, op_in_ptr = np.zeros(rows + 1, np.int64), np.zeros(rows + 1, np.int64)
    op_in = np.empty(len(args), np.int64)
    storage, size, of_storage = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    action, target = np.empty(2 * (rows + most) + n_names, np.int64), np.empty(2 * (rows + most) + n_names, np.int64)
    denotes = np.full(n_names, -1, np.int64)  # name -> tensor
    order, defined = np.empty(n_names, np.int64), 0  # names in order of first definition
    held = np.zeros(most, np.int64)  # tensor -> names that denote it and are not released
    ops = tensors = storages = inputs = steps = 0
    all_bytes = all_time = 0
    code, detail, row = 0, 0, 0
    for row in range(rows):
        what = kind[row]
        n_args, n_results = args_ptr[row + 1] - args_ptr[row], results_ptr[row + 1] - results_ptr[row]
        n_sizes, n_aliases = sizes_ptr[row + 1] - sizes_ptr[row], aliases_ptr[row + 1] - aliases_ptr[row]
        n_mutated = mutated_ptr[row + 1] - mutated_ptr[row]
        fits = n_mutated == 0
        if what == _CONSTANT:
            fits = fits and n_args == 0 and n_results == 1 and n_sizes == 1
        elif what == _CALL:
            fits = fits and n_results >= 1 and n_sizes == n_results and n_aliases == n_results
        elif what == _MUTATE:
            fits = n_mutated >= 1 and n_results == 0
        elif what in (_RELEASE, _PIN):
            fits = fits and n_args == 1 and n_results == 0
        else:
            fits = fits and n_args == 1 and n_results == 1
        if not fits:
            code, detail = _LISTS, 0
            break
        if cost[row] < 0:
            code, detail = _NEGATIVE, cost[row]
            break
        if what == _RELEASE:
            tensor = denotes[args[args_ptr[row]]]
            if tensor >= 0:  # a name that was born before the log is not ours
                held[tensor] -= 1
                action[steps], target[steps] = RELEASE, tensor
                steps += 1
            continue
        for i in range(args_ptr[row], args_ptr[row + 1]):
            if denotes[args[i]] < 0:
                code, detail = _UNKNOWN, args[i]
                break
        if code:
            break
        if what == _PIN:
            action[steps], target[steps] = PIN, denotes[args[args_ptr[row]]]
            steps += 1
            continue
        for i in range(results_ptr[row], results_ptr[row + 1]):
            name = results[i]
            if what == _COPY_FROM:
                if denotes[name] < 0:
                    code, detail = _UNKNOWN, name
            elif denotes[name] >= 0:
                code, detail = _TWICE, name
            elif what != _COPY:
                denotes[name] = tensors + i - results_ptr[row]  # here, so that a name twice in one call is found
                order[defined] = name
                defined += 1
            if code:
                break
        if code:
            break
        if what in (_COPY, _COPY_FROM):
            tensor, name = denotes[args[args_ptr[row]]], results[results_ptr[row]]
            if what == _COPY:
                order[defined] = name
                defined += 1
            else:
                old = denotes[name]
                held[old] -= 1
                action[steps], target[steps] = RELEASE, old
                steps += 1
            denotes[name] = tensor
            held[tensor] += 1
            action[steps], target[steps] = GET, tensor
            steps += 1
            continue
        # what remains is an operator
        before = tensors
        for i in range(args_ptr[row], args_ptr[row + 1]):
            op_in[inputs] = denotes[args[i]]
            inputs += 1
        first_in = op_in_ptr[ops]
        for i in range(n_mutated if what == _MUTATE else n_results):
            alias = -1
            if what == _MUTATE:
                position = mutated[mutated_ptr[row] + i]
                if position < 0 or position >= n_args:
                    code, detail = _POSITION, position
                    break
                bytes_ = of_storage[storage[op_in[first_in + position]]]
            else:
                bytes_ = sizes[sizes_ptr[row] + i]
                if what == _CALL:
                    alias = aliases[aliases_ptr[row] + i]
            if bytes_ < 0:
                code, detail = _NEGATIVE, bytes_
                break
            if alias < -1 or alias >= n_args:
                code, detail = _ALIAS, alias
                break
            if alias >= 0:
                size[tensors], storage[tensors] = 0, storage[op_in[first_in + alias]]
            else:
                size[tensors], storage[tensors] = bytes_, storages
                of_storage[storages] = bytes_
                storages += 1
                all_bytes += bytes_
                if all_bytes > 1 << 62 or all_bytes < 0:
                    code = _HUGE
                    break
            held[tensors] = 1
            tensors += 1
        all_time += cost[row]
        if all_time > 1 << 62 or all_time < 0:
            code = _HUGE
        if code:
            break
        op_cost[ops], op_row[ops] = cost[row], row
        action[steps], target[steps] = COMPUTE, ops
        steps += 1
        ops += 1
        op_first[ops], op_in_ptr[ops] = tensors, inputs
        if what == _CONSTANT:
            action[steps], target[steps] = PIN, before
            steps += 1
        for i in range(n_mutated):
            name = args[args_ptr[row] + mutated[mutated_ptr[row] + i]]
            old = denotes[name]
            denotes[name] = before + i
            held[old] -= 1
            action[steps], target[steps] = RELEASE, old
            steps += 1
    if code == 0:
        for i in range(defined):
            tensor = denotes[order[i]]
            if held[tensor] > 0:
                action[steps], target[steps] = PIN, tensor
                steps += 1
    return (
        code, row, detail, op_cost[:ops], op_row[:ops], op_first[: ops + 1], op_in_ptr[: ops + 1], op_in[:inputs],
        storage[:tensors], size[:tensors], of_storage[:storages], action[:steps], target[:steps],
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _children(op_first, op_in_ptr, op_in, tensors):
    """CSR of the outputs that each occurrence of a tensor as an input adds to its children."""
    ptr = np.zeros(tensors + 1, np.int64)
    for op in range(len(op_first) - 1):
        for i in range(op_in_ptr[op], op_in_ptr[op + 1]):
            ptr[op_in[i] + 1] += op_first[op + 1] - op_first[op]
    for t in range(tensors):
        ptr[t + 1] += ptr[t]
    child, filled = np.empty(ptr[tensors], np.int64), ptr[:-1].copy()
    for op in range(len(op_first) - 1):
        for i in range(op_in_ptr[op], op_in_ptr[op + 1]):
            for out in range(op_first[op], op_first[op + 1]):
                child[filled[op_in[i]]] = out
                filled[op_in[i]] += 1
    return ptr, child

"""A log's instructions on the plain simulator: names, the tensors that they denote, and what is left at the end."""

from reference import End


def replay(simulator, instructions):
    """Run a log's instructions; returns (status, operator's number, bytes short, trace)."""
    names, held, order, end = {}, {}, [], ("ok", None, None)

    def define(name, tensor):
        names[name] = tensor
        order.append(name)
        held[tensor.id] = 1

    try:
        for row in instructions:
            if row.instr == "release":
                if row.args[0] in names:
                    tensor = names[row.args[0]]
                    held[tensor.id] -= 1
                    simulator.release(tensor)
                continue
            args = [names[name] for name in row.args]
            if row.instr == "copy":
                names[row.results[0]] = args[0]
                order.append(row.results[0])
                held[args[0].id] += 1
                args[0].storage.refs += 1
            elif row.instr == "copy_from":
                old = names[row.results[0]]
                names[row.results[0]] = args[0]
                held[old.id] -= 1
                simulator.release(old)
                held[args[0].id] += 1
                args[0].storage.refs += 1
            elif row.instr == "mutate":
                made = simulator.compute(args, row.cost_ns, [(args[at].storage.size, -1) for at in row.mutated])
                for at, tensor in zip(row.mutated, made, strict=True):
                    old = names[row.args[at]]
                    names[row.args[at]] = tensor
                    held[tensor.id] = 1
                    held[old.id] -= 1
                    simulator.release(old)
            else:
                aliases = row.aliases or (-1,)
                for name, tensor in zip(
                    row.results, simulator.compute(args, row.cost_ns, list(zip(row.sizes, aliases, strict=True))),
                    strict=True,
                ):  # fmt: skip
                    define(name, tensor)
                if row.instr == "constant":
                    simulator.pin(tensor)
        for name in order:
            if held[names[name].id] > 0:
                simulator.pin(names[name])
    except End as caught:
        status, op, short = caught.args
        end = (status, op.number, short)
    return (*end, "".join(simulator.trace))

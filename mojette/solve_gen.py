#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-3.0-or-later
"""Generates straight-line solvers for the sets of directions that are decoded most.

The non-systematic decode is an interpolation: with one element as one power of z, direction p sees
the polynomial D(X) = sum over r of row_r X^r at X = z^p. Newton's divided differences solve it:

    f[i]    = S_i                                   (the projection with direction p_i)
    f[i..j] = (f[i..j-1] + f[i+1..j]) / (z^p_i + z^p_j)
    D(X)    = f[0] + (X + z^p_0) (f[0..1] + (X + z^p_1) (f[0..2] + ...))

Three things make that fast, and choosing among them is this program's work:
- A factor z^s is an offset. Each stream has a tag: the power of z by which its content is late.
  A tag is free where it ends in a load or a store; only sums of streams with unequal tags cost a
  shift of vector lanes.
- Divisions are put off: a divided difference is kept as numerator and a product of (1 + z^a), and
  numerators are brought to a common denominator when they are added. What is left to divide by
  are e - 1 products.
- In characteristic 2, (1 + z^a)^2 = 1 + z^2a. So 1 / (1 + z^a)^n = (1 + z^a)^(2^j - n) / (1 + z^(a
  2^j)): multiplications, which are shifts, and one division that for a 2^j a multiple of the lanes
  is an XOR with an earlier vector.

For a set of directions in arithmetic progression the common denominators cost nothing at all: with
{-3, -1, 1, 3} four rows take a dozen shuffles a vector.

The order of the nodes is free; all orders (or a sample) are tried and the one with the fewest
operations is kept.

usage: solve_gen.py LANES solve_LANES.inc;  solve_gen.py choice choice.inc
"""

import itertools
import random
import sys


def patterns():
    """The sets of directions to specialise for: all of the small codes, the best of the large."""
    sets = set()
    for k, m in ((2, 1), (3, 1), (4, 1), (4, 2)):
        n = k + m
        directions = [p for p in range(-(n // 2), n - n // 2 + 1) if p != 0]
        sets.update(itertools.combinations(directions, k))
    for k in (5, 6, 7, 8):
        half = k // 2
        sets.add(tuple(p for p in range(-half, k - half + 1) if p != 0))
    sets.add((-5, -3, -1, 1, 3, 5))
    return sorted(sets, key=lambda s: (len(s), s))


class Stream:
    """A sequence of vectors: the XOR of `terms`, late by `tag` powers of z."""

    def __init__(self, terms, tag, load=None):
        self.terms, self.tag, self.load = terms, tag, load


class Program:
    def __init__(self, directions, lanes):
        self.p, self.lanes = directions, lanes
        self.lines, self.loads, self.depth = [], {}, {}
        self.names = self.cost = 0
        self.stores = []
        self.shifts, self.tails = {}, []

    def name(self):
        self.names += 1
        return "v%d" % self.names

    def emit(self, expression, cost):
        name = self.name()
        self.lines.append("const vec %s = %s;" % (name, expression))
        self.cost += cost
        return name

    def var(self, stream):
        """The stream's current vector in one variable."""
        while len(stream.terms) > 2:
            a, b, c = stream.terms[:3]
            stream.terms[:3] = []
            stream.terms.append(self.emit("vec_xor3(%s, %s, %s)" % (a, b, c), 0.6))
        if len(stream.terms) == 2:
            stream.terms = [self.emit("vec_xor(%s, %s)" % tuple(stream.terms), 0.6)]
        return stream.terms[0]

    def past(self, var, vectors):
        """The value that a variable had `vectors` steps ago."""
        if vectors == 0:
            return var
        self.depth[var] = max(self.depth.get(var, 0), vectors)
        return "%s_%d" % (var, vectors)

    def shift_cost(self, by):
        by %= self.lanes
        return 0 if by == 0 else 2 if self.lanes == 4 and by % 2 else 1

    def late(self, var, by):
        """The variable's stream times z^by."""
        whole, part = divmod(by, self.lanes)
        if part == 0:
            return self.past(var, whole)
        if (var, by) not in self.shifts:
            self.shifts[var, by] = self.emit("vec_shift_%d(%s, %s)" % (
                part, self.past(var, whole), self.past(var, whole + 1)), self.shift_cost(by))
        return self.shifts[var, by]

    def source(self, index):
        return Stream([], 0, load=index)

    def at(self, stream, tag):
        """Terms of the stream brought to a tag that is not before its own."""
        if stream.load is not None:
            if (stream.load, tag) not in self.loads:
                self.loads[stream.load, tag] = self.name()
                self.cost += 0.5
            return [self.loads[stream.load, tag]]
        if tag == stream.tag:
            return list(stream.terms)
        return [self.late(self.var(stream), tag - stream.tag)]

    def add(self, a, b, shift=0):
        """a + z^shift b"""
        if a.load is not None:
            tag = b.tag - shift
        elif b.load is not None:
            tag = a.tag
        else:
            tag = max(a.tag, b.tag - shift)
        return Stream(self.at(a, tag) + self.at(b, tag + shift), tag)

    def times(self, stream, a):
        """stream (1 + z^a)"""
        if stream.load is not None:
            return Stream(self.at(stream, 0) + self.at(stream, a), 0)
        var = self.var(stream)
        return Stream([var, self.late(var, a)], stream.tag)

    def times_power(self, stream, odd, power):
        bit = 0
        while power >> bit:
            if power >> bit & 1:
                stream = self.times(stream, odd << bit)
            bit += 1
        return stream

    def scan_steps(self, a):
        steps, s = [], a
        while s < self.lanes:
            steps.append(s)
            s *= 2
        return steps

    def divide_one(self, stream, a):
        """stream / (1 + z^a), by a scan inside the vector and a carry from the last one."""
        if a >= self.lanes:
            y = self.name()
            past, part = divmod(a, self.lanes)
            if part == 0:
                carried = self.past(y, past)
            else:
                carried = self.emit("vec_shift_%d(%s, %s)" % (part, self.past(y, past),
                    self.past(y, past + 1)), self.shift_cost(a))
        else:
            var = self.var(stream)
            for step in self.scan_steps(a):
                shifted = self.emit("vec_shift_zero_%d(%s)" % (step, var),
                    self.shift_cost(step))
                stream = Stream([var, shifted], stream.tag)
                if step * 2 < self.lanes:
                    var = self.var(stream)
            y = self.name()
            carried = self.emit("vec_carry_%d(%s)" % (a, self.past(y, 1)), 1)
        terms = stream.terms + [carried]
        operation = {2: "vec_xor", 3: "vec_xor3"}.get(len(terms))
        if operation is None:
            terms = [self.var(stream), carried]
            operation = "vec_xor"
        self.lines.append("const vec %s = %s(%s);" % (y, operation, ", ".join(terms)))
        self.cost += 0.6
        return Stream([y], stream.tag)

    def divide(self, stream, odd, power):
        """stream / (1 + z^odd)^power, the cheaper way."""
        scan = sum(sum(self.shift_cost(s) + 0.3 for s in self.scan_steps(odd << b)) + 1.6
                   for b in range(8) if power >> b & 1)
        whole = 1
        while odd * whole % self.lanes or whole < power:
            whole *= 2
        multiply = sum(self.shift_cost(odd << b) + 0.3
                       for b in range(8) if (whole - power) >> b & 1) + 0.6
        if multiply <= scan or odd * whole > 4 * self.lanes and multiply < scan:
            stream = self.times_power(stream, odd, whole - power)
            return self.divide_one(stream, odd * whole)
        for b in range(8):
            if power >> b & 1:
                stream = self.divide_one(stream, odd << b)
        return stream


def odd_part(a):
    power = a & -a
    return a // power, power


def solver(directions, order, lanes, put_off):
    g = Program(directions, lanes)
    p = [directions[i] for i in order]
    e = len(p)
    # numerators f[i..j] with denominators {odd: power}; column j - i at a time
    column = [(g.source(order[i]), {}) for i in range(e)]
    newton = [column[0]]
    for width in range(1, e):
        following = []
        for i in range(e - width):
            (a, da), (b, db) = column[i], column[i + 1]
            common = {o: max(da.get(o, 0), db.get(o, 0)) for o in set(da) | set(db)}
            for o in sorted(common):
                a = g.times_power(a, o, common[o] - da.get(o, 0))
                b = g.times_power(b, o, common[o] - db.get(o, 0))
            total = g.add(a, b)
            total.tag += min(p[i], p[i + width])
            odd, power = odd_part(abs(p[i] - p[i + width]))
            common[odd] = common.get(odd, 0) + power
            if not put_off:
                for o in sorted(common):
                    total = g.divide(total, o, common[o])
                common = {}
            g.var(total)
            following.append((total, common))
        column = following
        newton.append(column[0])
    # quotients, then from Newton's basis to powers of X
    row = []
    for numerator, denominator in newton:
        for o in sorted(denominator):
            numerator = g.divide(numerator, o, denominator[o])
        if numerator.load is None:
            g.var(numerator)
        row.append(numerator)
    for level in range(e - 2, -1, -1):
        for i in range(level, e - 1):
            row[i] = g.add(row[i], row[i + 1], p[level])
            if i > 0:
                g.var(row[i])
    for r in range(e):
        g.stores.append((g.var(row[r]), row[r].tag))
    g.cost += 0.15 * sum(g.depth.values())
    return g


def best_solver(directions, lanes):
    orders = list(itertools.permutations(range(len(directions))))
    if len(orders) > 120:
        random.seed(1)
        orders = orders[:1] + random.sample(orders, 150)
    candidates = (solver(directions, order, lanes, put_off)
                  for order in orders for put_off in (True, False))
    return min(candidates, key=lambda g: g.cost)


def identifier(directions):
    return "_".join("m%d" % -p if p < 0 else "p%d" % p for p in directions)


def mask(directions):
    return sum(1 << p + 16 for p in directions)


def write_solver(directions, lanes):
    g = best_solver(directions, lanes)
    e = len(directions)
    name = identifier(directions)
    loads = sorted(g.loads.items())
    past = [(var, d) for var, depth in sorted(g.depth.items()) for d in range(depth, 0, -1)]
    place = {"%s_%d" % key: i for i, key in enumerate(past)}
    print("/* Directions %s: cost %.1f a vector of each row. */" % (
        ", ".join(map(str, directions)), g.cost))
    print("VECTOR_INLINE void step_%s(vec *past, const struct stream *in," % name)
    print("\tconst struct stream *out, ptrdiff_t x, const bool inside)\n{")
    for i, (_, var) in enumerate(loads):
        print("\tconst vec %s = stream_load(&in[%d], x, inside);" % (var, i))
    for key, i in place.items():
        print("\tconst vec %s = past[%d];" % (key, i))
    for line in g.lines:
        print("\t" + line)
    print()
    for r, (var, _) in enumerate(g.stores):
        print("\tstream_store(&out[%d], x, %s, inside);" % (r, var))
    for var, d in past:
        print("\tpast[%d] = %s;" % (
            place["%s_%d" % (var, d)], var if d == 1 else "%s_%d" % (var, d - 1)))
    print("}\n")
    # Where the streams stand, all but the number of columns known: first, and end less columns.
    spans = []
    print("static void solve_%s(const struct mojette_system *s)\n{" % name)
    print("\tconst struct stream in[] = {")
    for (index, tag), _ in loads:
        p = directions[index]
        first = tag + min(0, p * (e - 1))
        end = first + abs(p) * (e - 1)
        spans.append((first, end))
        # the system lists directions in descending order
        print("\t\tstream_at(s->bins[%d], %d, s->columns + %d)," % (
            e - 1 - index, first, end - first))
    print("\t};")
    print("\tconst struct stream out[] = {")
    for r, (_, tag) in enumerate(g.stores):
        spans.append((tag, tag))
        print("\t\tstream_at(s->out[%d], %d, s->columns)," % (r, tag))
    print("\t};")
    # Start so that the last row's vectors are aligned if the row is.
    last = g.stores[-1][1]
    begin = min(first for first, _ in spans)
    begin -= (begin - last) % lanes
    inside = max(first for first, _ in spans)
    inside += (last - inside) % lanes
    print("\tconst struct span span = span_of(%d, %d, s->columns + %d, s->columns + %d);\n" % (
        begin, inside, min(end for _, end in spans), max(tag for _, tag in g.stores)))
    print("\tSTREAM_WALK(step_%s, %d, in, out, span);\n}\n" % (name, len(past)))


def main():
    with open(sys.argv[2], "w", encoding="ascii") as sys.stdout:
        write()


def write():
    if sys.argv[1] == "choice":
        costs = sorted((len(s), best_solver(s, 8).cost, s) for s in patterns())
        print("/* Made by solve_gen.py: sets of directions as masks of p + 16, cheapest first. */")
        print("static const struct {\n\tuint8_t k;\n\tuint32_t directions;\n} choice[] = {")
        for e, cost, s in costs:
            print("\t{%d, 0x%08x}, /* %s: %.1f */" % (e, mask(s), ", ".join(map(str, s)), cost))
        print("};")
        return
    lanes = int(sys.argv[1])
    print("/* Made by solve_gen.py for vectors of %d lanes. */" % lanes)
    for directions in patterns():
        write_solver(directions, lanes)
    print("static solver *find_solver(uint32_t directions)\n{\n\tswitch (directions) {")
    for directions in patterns():
        print("\tcase 0x%08x:\n\t\treturn solve_%s;" % (
            mask(directions), identifier(directions)))
    print("\tdefault:\n\t\treturn NULL;\n\t}\n}")


main()

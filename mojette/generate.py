#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-3.0-or-later
"""Generates straight-line kernels for the codes and sets of directions that are used most.

Encoders: all projections of a block in one walk over its rows. Each bin is the XOR of one element
of each row; a row's vector at an odd offset is made in registers from the two aligned ones around
it, or loaded across a cache line, so that neither the shuffle nor the load ports are the brake.

Solvers: see the next paragraphs.

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

usage: generate.py encode LANES FILE | solve LANES FILE | choice FILE | crc FILE
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
                self.lines.append((stream.load, tag))
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


def write_step(name, g, arguments, load):
    """The function that takes one vector of every stream; returns the number of past vectors."""
    past = [(var, d) for var, depth in sorted(g.depth.items()) for d in range(depth, 0, -1)]
    place = {"%s_%d" % key: i for i, key in enumerate(past)}
    print("VECTOR_INLINE void step_%s(vec *past, %s," % (name, arguments))
    print("\tvec *result, ptrdiff_t x)\n{")
    for key, i in place.items():
        print("\tconst vec %s = past[%d];" % (key, i))
    for line in g.lines:
        if isinstance(line, tuple):
            line = "const vec %s = %s;" % (g.loads[line], load(line))
        print("\t" + line)
    print()
    for i, (var, _) in enumerate(g.stores):
        print("\tresult[%d] = %s;" % (i, var))
    for var, d in past:
        print("\tpast[%d] = %s;" % (
            place["%s_%d" % (var, d)], var if d == 1 else "%s_%d" % (var, d - 1)))
    if not past:
        print("\t(void)past;")
    print("}\n")
    return len(past)


def write_stores(walk):
    """An encoder's walk with either kind of stores."""
    print("\tif (past_caches)")
    print("\t\t" + walk % "stream_store_all_past_caches")
    print("\telse")
    print("\t\t" + walk % "stream_store_all" + "\n}\n")


def write_walk(name, lanes, past, ins, outs, solver):
    """The rest of a kernel; ins and outs are (bytes, first, end less columns) of each stream."""
    for kind, streams in (("in", ins), ("out", outs)):
        print("\tconst struct stream %s[] = {" % kind)
        for data, first, end in streams:
            print("\t\tstream_at(%s, %d, columns + %d)," % (data, first, end - first))
        print("\t};")
    # Start so that the last output's vectors are aligned if it is.
    last = outs[-1][1]
    begin = min(first for _, first, _ in ins + outs)
    begin -= (begin - last) % lanes
    inside = max(first for _, first, _ in ins + outs)
    inside += (last - inside) % lanes
    print("\tconst struct span span = span_of(%d, %d, columns + %d, columns + %d);\n" % (
        begin, inside, min(end for _, _, end in ins + outs), max(end for _, _, end in outs)))
    walk = "STREAM_WALK(step_%s, %d, in, out, %d, span, %s, %%s);" % (
        name, past, len(outs), "true" if solver else "false")
    if solver:
        print("\t" + walk % "stream_store_all" + "\n}\n")
    else:
        write_stores(walk)


def write_solver(directions, lanes):
    g = best_solver(directions, lanes)
    e = len(directions)
    name = "solve_" + identifier(directions)
    loads = sorted(g.loads.items())
    print("/* Directions %s: cost %.1f a vector of each row. */" % (
        ", ".join(map(str, directions)), g.cost))
    number = {load: i for i, (load, _) in enumerate(loads)}
    past = write_step(name, g, "const struct stream *in, const bool inside",
                      lambda load: "stream_load(&in[%d], x, inside)" % number[load])
    print("static void %s(const struct mojette_system *s)\n{" % name)
    print("\tconst ptrdiff_t columns = s->columns;")
    ins = []
    for (index, tag), _ in loads:
        p = directions[index]
        first = tag + min(0, p * (e - 1))
        # the system lists directions in descending order
        ins.append(("s->bins[%d]" % (e - 1 - index), first, first + abs(p) * (e - 1)))
    outs = [("s->out[%d]" % r, tag, tag) for r, (_, tag) in enumerate(g.stores)]
    write_walk(name, lanes, past, ins, outs, True)


def write_solvers(lanes):
    for directions in patterns():
        write_solver(directions, lanes)
    print("static solver *find_solver(uint32_t directions)\n{\n\tswitch (directions) {")
    for directions in patterns():
        print("\tcase 0x%08x:\n\t\treturn solve_%s;" % (
            mask(directions), identifier(directions)))
    print("\tdefault:\n\t\treturn NULL;\n\t}\n}")


def pair_patterns():
    """(k, r0, r1): two of k rows unknown."""
    return [(k, r0, r1) for k in (4, 8) for r0, r1 in itertools.combinations(range(k), 2)]


def write_pair_solver(k, r0, r1, lanes):
    """Rows r0 and r1 from directions 1 and -1 and the others; kernel_vector.h has the algebra."""
    g = Program(None, lanes)
    known = [r for r in range(k) if r not in (r0, r1)]
    u, v = g.at(g.source(0), 0), g.at(g.source(1), 0)
    for i, r in enumerate(known):
        # Of each known row one load, ahead of what is stored, and one shift.
        ahead = Stream(g.at(g.source(2 + i), -abs(r - r0)), -abs(r - r0))
        u += g.at(ahead, r - r0)
        v += g.at(ahead, r0 - r)
    v = Stream(v, 0)
    g.var(v)
    total = Stream(u + v.terms, 0)
    g.var(total)
    y = g.divide(total, *odd_part(2 * (r1 - r0)))
    d0 = g.add(v, y)
    g.stores = [(g.var(d0), d0.tag), (g.var(y), y.tag)]
    name = "pair_%d_%d_%d" % (k, r0, r1)
    loads = sorted(g.loads)
    past = write_step(name, g, "const struct stream *in, const bool inside",
                      lambda load: "stream_load(&in[%d], x, inside)" % loads.index(load))
    print("static void %s(const struct mojette_system *s)\n{" % name)
    print("\tconst ptrdiff_t columns = s->columns;")
    ins = []
    for index, tag in loads:
        if index < 2:
            first = tag + (-r0 if index == 0 else r0 - (k - 1))
            ins.append(("s->bins[%d]" % index, first, first + k - 1))
        else:
            ins.append(("s->known[%d]" % (index - 2), tag, tag))
    outs = [("s->out[0]", d0.tag, d0.tag), ("s->out[1]", y.tag - (r1 - r0), y.tag - (r1 - r0))]
    write_walk(name, lanes, past, ins, outs, True)


def write_pair_solvers(lanes):
    for pattern in pair_patterns():
        write_pair_solver(*pattern, lanes)
    print("static solver *find_pair_solver(const struct mojette_system *s)\n{")
    print("\tif (s->p[0] != 1 || s->p[1] != -1)\n\t\treturn NULL;")
    print("\tswitch (s->k << 16 | (unsigned int)s->row[0] << 8 | (unsigned int)s->row[1]) {")
    for k, r0, r1 in pair_patterns():
        print("\tcase 0x%06x:\n\t\treturn pair_%d_%d_%d;" % (k << 16 | r0 << 8 | r1, k, r0, r1))
    print("\tdefault:\n\t\treturn NULL;\n\t}\n}")


def write_choice():
    costs = sorted((len(s), best_solver(s, 8).cost, s) for s in patterns())
    print("/* Sets of directions, as masks of p + 16, that have a solver, cheapest first. */")
    print("static const struct {\n\tuint8_t k;\n\tuint32_t directions;\n} choice[] = {")
    for e, cost, s in costs:
        print("\t{%d, 0x%08x}, /* %s: %.1f */" % (e, mask(s), ", ".join(map(str, s)), cost))
    print("};")


def directions_of(count):
    half = count // 2
    return tuple(p for p in range(-half, count - half + 1) if p != 0)


def encoders():
    """(k, directions) of every code that has an encoder."""
    codes = ((2, 1), (3, 1), (4, 1), (4, 2), (6, 2), (8, 2), (8, 4))
    return sorted({(k, directions_of(m)) for k, m in codes} |
                  {(k, directions_of(k + m)) for k, m in codes})


# What a load costs if it crosses a cache line, and if not, in cycles of the load ports. Measured; by
# itself a crossing load takes 1.25, but it also waits for recent stores that it partly matches in the
# low twelve bits of the address, and rows tend to be page aligned. Of vectors of four elements every
# second one at an odd offset crosses.
CROSSING_LOAD = {8: 2, 4: 0.9}
ALIGNED_LOAD = {8: 0.55, 4: 0.4}
REACH = 16  # elements: the furthest shift of a code whose rows' vectors are kept in registers


def encoder(k, directions, lanes):
    g = Program(directions, lanes)
    rows = [g.source(r) for r in range(k)]
    tags = [[abs(p) * (k - 1 - r if p < 0 else r) for r in range(k)] for p in directions]
    wanted = sorted({(tag, r) for of_row in tags for r, tag in enumerate(of_row)})
    near = max(max(of_row) for of_row in tags) <= REACH
    sums = len(directions) * (k // 2)

    def cycles(shifted, loaded):
        """Of the busiest ports: loads, shuffles (one port), shuffles and sums (two ports)."""
        whole = {w for w in wanted if w[0] % lanes == 0}
        if near:
            whole |= {(0, r) for _, r in shifted}
        else:
            whole |= {(s - s % lanes + d, r) for s, r in shifted for d in (0, lanes)}
        shuffles = sum(g.shift_cost(s) for s, _ in shifted)
        return max(CROSSING_LOAD[lanes] * len(loaded) + ALIGNED_LOAD[lanes] * len(whole),
                   shuffles, (shuffles + sums) / 2)

    # Odd offsets by loads or by shuffles, whatever keeps the busiest port least busy. If near, only
    # small offsets by loads: then one vector is all that hangs over the beginning of a row.
    best = None
    for seed in range(1 if near else 40):
        odd = [w for w in wanted if w[0] % lanes and (w[0] < lanes or not near)]
        random.Random(seed).shuffle(odd)
        choices = len(odd)
        odd += [w for w in wanted if w[0] % lanes and w not in odd]
        for i in range(choices + 1):
            cost = cycles(odd[i:], odd[:i])
            if best is None or cost < best[0]:
                best = (cost, set(odd[i:]))
    shifted = best[1]

    def term(tag, r):
        if (tag, r) not in shifted:
            return g.at(rows[r], tag)[0]
        if near:
            return g.late(g.at(rows[r], 0)[0], tag)
        key = ("odd", r, tag)
        if key not in g.shifts:
            part = tag % lanes
            g.shifts[key] = g.emit("vec_shift_%d(%s, %s)" % (
                part, g.at(rows[r], tag - part)[0], g.at(rows[r], tag - part + lanes)[0]),
                g.shift_cost(tag))
        return g.shifts[key]

    # Two rows at a time, so that not all of their vectors need registers at once; for few rows and
    # near shifts one projection after the other.
    streams = [Stream([], 0) for _ in directions]
    for r in range(0, k, k if near else 2):
        for i, stream in enumerate(streams):
            for row in range(r, min(r + (k if near else 2), k)):
                stream.terms.append(term(tags[i][row], row))
            g.var(stream)
    g.stores = [(g.var(stream), 0) for stream in streams]
    return g


def write_encoder(k, directions, lanes):
    g = encoder(k, directions, lanes)
    name = "encode_%d_%s" % (k, identifier(directions))
    tails = [abs(p) * (k - 1) for p in directions]
    far = max(tails) > REACH
    if far:
        past = write_step(name, g, "const mojette_element *const *row",
                          lambda load: "vec_load(row[%d] + x - %d)" % load)
    else:
        loads = sorted(g.loads)
        past = write_step(name, g, "const struct stream *in, const bool inside",
                          lambda load: "stream_load(&in[%d], x, inside)" % loads.index(load))
    print("static void %s(ptrdiff_t columns, const uint8_t *const *rows," % name)
    print("\tuint8_t *const *bins, bool past_caches)\n{")
    if far:
        print("\tstatic const ptrdiff_t tail[] = {%s};\n" % ", ".join(map(str, tails)))
        write_stores("ENCODE_WALK(step_%s, %d, %d, %d, %d, tail, %%s);" % (
            name, past, k, len(directions), (max(tails) + lanes - 1) // lanes * lanes))
    else:
        ins = [("rows[%d]" % r, tag, tag) for r, tag in loads]
        outs = [("bins[%d]" % i, 0, tail) for i, tail in enumerate(tails)]
        write_walk(name, lanes, past, ins, outs, False)


def write_encoders(lanes):
    for k, directions in encoders():
        write_encoder(k, directions, lanes)
    print("static encoder *find_encoder(unsigned int k, uint32_t directions)\n{")
    print("\tswitch ((uint64_t)k << 32 | directions) {")
    for k, directions in encoders():
        print("\tcase 0x%016x:\n\t\treturn encode_%d_%s;" % (
            k << 32 | mask(directions), k, identifier(directions)))
    print("\tdefault:\n\t\treturn NULL;\n\t}\n}")


CRC32C = 0x82f63b78  # bit 31 is x^0, so that a shift to the right multiplies by x


def write_crc():
    """Powers of x modulo the CRC-32C polynomial, for crc.c: 64 n - 33 for n elements."""
    def times_x(v):
        return v >> 1 ^ (CRC32C if v & 1 else 0)

    def over_x(v):
        return (v ^ CRC32C) << 1 | 1 if v >> 31 else v << 1

    start = 1 << 31
    for _ in range(33):
        start = over_x(start)

    def print_powers(name, elements):
        powers, v = {}, start
        for n in range(max(elements) + 1):
            powers[n] = v
            for _ in range(64):
                v = times_x(v)
        print("static const uint32_t %s[] = {" % name)
        for n in elements:
            print("\t0x%08x," % powers[n])
        print("};")

    print("/* By 0, 1, .. elements of zeros: as many as a tail can have. */")
    print_powers("crc_elements", range(12 * 15 + 1))
    print("/* By 1, 2, 4, .. elements of zeros: as many as a row can have. */")
    print_powers("crc_squares", [1 << i for i in range(14)])


def main():
    what, lanes, path = sys.argv[1], sys.argv[2], sys.argv[-1]
    with open(path, "w", encoding="ascii") as sys.stdout:
        print("/* Made by generate.py. */")
        if what == "encode":
            write_encoders(int(lanes))
        elif what == "solve":
            write_solvers(int(lanes))
            write_pair_solvers(int(lanes))
        elif what == "crc":
            write_crc()
        else:
            write_choice()


main()

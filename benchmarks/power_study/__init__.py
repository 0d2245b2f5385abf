"""What `benchmarks/power.py` measures with: cases, implementations, mutants and rivals.

A *case* is a kernel with inputs, drawn from a seed. An *implementation* is an honest way to
compute it in low precision, a *mutant* a wrong one, a *rival* another method to tell them apart.
Nothing here knows how the verdict is reached: `judging` is the one place that asks for it.
"""

"""What the NumPy engine is made of.

Activations lie feature-major here: an array of N tokens and D features is [D, N] in memory, and the model sees its
transpose. On the checkpoint's own [out, in] matrices every product is then `W @ x`, which BLAS does as fast as any
other order for many tokens, and twice as fast for few; and what belongs to one feature, such as a bias, lies together.
"""

"""The training loop and what it works on: networks, stacks of them, optimizers.

From the top down::

    loop.py          the loop, a generator of metrics: start reading here
    progress.py      what is measured, and where a training stands
    optim.py         the optimizer's settings, the learning rate and its schedule
    sgd.py           stochastic gradient descent
    adamw.py         Adam with decoupled weight decay
    optimizer.py     what they share: one learning rate, or one a replica
    stacking.py      K networks of one architecture <-> one stacked network
    proof.py         the proof that it computes what they compute
    difference.py    where it does not
    joining.py       the layers that a stack knows, joined and parted
    alike.py         what networks must have in common to be stacked
    precise_bn.py    batch norm with running, re-estimated and batch statistics
    dropout.py       dropout by a replica's seed and the step
    diagnosis.py     what happens inside the network while it is trained
    cuda_graph.py    a training step as a CUDA graph
"""

from normbench.training import adamw as adamw  # it enters itself into the optimizers

"""The files of a cell's folder: one owner for each.

From the top down::

    advice.py         advise.json: what a race between norms was planned with
    plan.py           sweep.json: which cells a sweep has
    curves.py         metrics.jsonl, and when TensorBoard's copy of it is written
    events.py         TensorBoard's file, byte for byte what the JSON files say; its server
    checkpoint.py     the state of a training in one file, checked before it is loaded
    results.py        result.json and summary.json: how seeds ended
    rate.py           rate.json: how a cell's learning rate was chosen
    outcomes.py       outcomes.json: which test images a seed got right
    weights.py        model.safetensors: the tensors of a network
    environment.py    versions and machine
    lock.py           one process at a time works on a cell
"""

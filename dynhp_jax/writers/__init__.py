"""What takes the records of a run: one interface, a file for each kind of writer.

`dp.fit(callbacks=[dp.writers.TensorBoard("logs"), dp.writers.Screen()])`, or by name in the config:
`records.writers`.
"""

from dynhp_jax.writers.json_lines import JsonLines
from dynhp_jax.writers.screen import Screen
from dynhp_jax.writers.tensorboard import TensorBoard
from dynhp_jax.writers.writer import Compiling, Started, Writer

__all__ = ["Compiling", "JsonLines", "Screen", "Started", "TensorBoard", "Writer"]

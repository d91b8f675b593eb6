"""Prints README's first or second command block: python3 .ci/readme_commands.py 1."""

import re
import sys
from pathlib import Path

blocks = re.findall(r"```bash\n(.*?)```", Path("README.md").read_text(encoding="utf-8"), re.DOTALL)
print(blocks[int(sys.argv[1]) - 1].strip())

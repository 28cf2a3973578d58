"""Entry of the single binary: `shadowmesh`, or `shadowmesh-daemon` by the name it is called under."""

import sys
from pathlib import Path

from shadowmesh.__main__ import daemon_main, main

if Path(sys.argv[0]).name == "shadowmesh-daemon":
    daemon_main()
else:
    main()

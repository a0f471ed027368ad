import sys

from xlmr_np.cli import main

sys.exit(main())

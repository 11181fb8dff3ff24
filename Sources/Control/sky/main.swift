// The program `sky`: the command line, all of it in SkyCLI.

import SkyCLI

await SkyCommand.main()

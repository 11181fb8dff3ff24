// A short name for the one atomic shape that control blocks use.

import Synchronization

package typealias AtomicWord = Atomic<UInt32>

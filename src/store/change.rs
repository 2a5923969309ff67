//! What changed in the tree? News that the indexer sends after each commit, for whoever holds caches.

use super::node::NodeNumber;

/// One piece of news. It is a hint to look again, never the new state itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Change {
    /// An entry appeared, vanished, or leads to another node.
    Entry {
        /// The directory.
        dir: NodeNumber,
        /// The entry's name.
        name: Vec<u8>,
    },
    /// A node's attributes or content changed; a directory's listing.
    Node {
        /// The node.
        number: NodeNumber,
    },
    /// More changed than is worth listing: look at everything again.
    Everything,
}

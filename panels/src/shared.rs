//! What every panel of the workbench writes to while it draws.

use crate::Linked;
use crate::about::Subject;
use crate::action::Action;

/// Lent to one panel after the other.
pub(crate) struct Shared<'a> {
    /// What is pointed at and chosen across panels.
    pub linked: &'a mut Linked,
    /// What the About panel speaks of.
    pub subject: &'a mut Subject,
    /// What is asked for in this frame.
    pub actions: &'a mut Vec<Action>,
}

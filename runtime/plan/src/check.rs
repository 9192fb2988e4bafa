//! The problems of a document, found in any order, told together.

use crate::error::Error;

/// The problems found so far. Warnings do not stop the container.
#[derive(Default, Debug)]
pub struct Check {
    pub errors: Vec<Error>,
    pub warnings: Vec<Error>,
    /// How many of each came when there were [`MOST`] already.
    more: (usize, usize),
}

/// A generated document can have the same fault 20,000 times, and each place is looked up in the text.
pub const MOST: usize = 20;

fn add(list: &mut Vec<Error>, more: &mut usize, e: Error) {
    if list.len() < MOST {
        list.push(e);
    } else {
        *more += 1;
    }
}

fn told(mut list: Vec<Error>, more: usize, name: &str) -> Vec<Error> {
    if more > 0 {
        list.push(Error::invalid("", format!("and {more} more {name}")));
    }
    list
}

impl Check {
    pub fn bad(&mut self, field: impl Into<String>, what: impl Into<String>) {
        add(&mut self.errors, &mut self.more.0, Error::invalid(field, what));
    }
    pub fn unsupported(&mut self, field: impl Into<String>, what: impl Into<String>) {
        add(&mut self.errors, &mut self.more.0, Error::unsupported(field, what));
    }
    pub fn warn(&mut self, field: impl Into<String>, what: impl Into<String>) {
        add(&mut self.warnings, &mut self.more.1, Error::invalid(field, what));
    }
    /// The problems, and the warnings.
    pub fn all(self) -> (Vec<Error>, Vec<Error>) {
        (told(self.errors, self.more.0, "problems"), told(self.warnings, self.more.1, "warnings"))
    }
    /// The warnings, or the problems if there are any.
    pub fn finish(self) -> Result<Vec<Error>, Vec<Error>> {
        if self.errors.is_empty() {
            return Ok(told(self.warnings, self.more.1, "warnings"));
        }
        Err(told(self.errors, self.more.0, "problems"))
    }
}

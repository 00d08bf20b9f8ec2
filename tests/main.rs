//! The one integration binary: a module a subject.

mod support;

mod hub;
mod tidy;

//! The attributes of tests that need something installed. What a skipped test is, the module
//! `needs` of `walvault-harness` says.

use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// A test which is skipped when something that it needs is not there. Imported under its name, it
/// takes the place of the language's own `#[test]`.
#[proc_macro_attribute]
pub fn test(_: TokenStream, function: TokenStream) -> TokenStream {
    let mut test = parse("#[::core::prelude::v1::test]");
    test.extend(skippable(function));
    test
}

/// The same for a test that another attribute makes, which stands before this one:
/// `#[tokio::test]`, then `#[needs_servers]`.
#[proc_macro_attribute]
pub fn needs_servers(_: TokenStream, function: TokenStream) -> TokenStream {
    skippable(function)
}

/// Wraps the body of a function, which is its last group in braces.
fn skippable(function: TokenStream) -> TokenStream {
    let mut tokens: Vec<TokenTree> = function.into_iter().collect();
    let Some(body @ TokenTree::Group(_)) = tokens.pop() else {
        return parse("::core::compile_error!(\"only a function can be a test\");");
    };
    let mut call = parse("::walvault_harness::needs::or_skip");
    let closure: TokenStream = parse("||").into_iter().chain([body]).collect();
    call.extend([TokenTree::Group(Group::new(
        Delimiter::Parenthesis,
        closure,
    ))]);
    tokens.push(TokenTree::Group(Group::new(Delimiter::Brace, call)));
    tokens.into_iter().collect()
}

fn parse(source: &str) -> TokenStream {
    source.parse().expect("Rust")
}

//! Events found in bytes, however the network cut them.

use bytes::Bytes;
use proptest::prelude::*;
use understudy::gateway::fault::Fault;
use understudy::gateway::sse_splitter::{EVENT_BYTES_MAX, Left, SseEvent, SseSplitter};

struct Split {
    events: Vec<SseEvent>,
    left: Option<Left>,
}

impl Split {
    fn raw(&self) -> Vec<u8> {
        let left = match &self.left {
            None => &[],
            Some(Left::Event(event)) => event.raw().as_ref(),
            Some(Left::Unfinished(raw)) => raw.as_ref(),
        };
        self.events.iter().flat_map(|event| event.raw().to_vec()).chain(left.to_vec()).collect()
    }

    /// Names and data of events, comments left out.
    fn told(&self) -> Vec<(Option<String>, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        self.events.iter().filter_map(|event| Some((event.name().map(text), text(event.data()?)))).collect()
    }
}

fn split<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Split {
    let mut splitter = SseSplitter::new(EVENT_BYTES_MAX);
    let mut events = Vec::new();
    for chunk in chunks {
        splitter.push(Bytes::copy_from_slice(chunk));
        while let Some(event) = splitter.next_event().expect("no event is too large") {
            events.push(event);
        }
    }
    Split { events, left: splitter.finish() }
}

#[track_caller]
fn check(stream: &str, expected: &[(Option<&str>, &str)]) {
    let expected: Vec<(Option<String>, String)> =
        expected.iter().map(|(name, data)| (name.map(str::to_owned), (*data).to_owned())).collect();
    let whole = split([stream.as_bytes()]);
    assert_eq!(whole.told(), expected, "{stream:?}");
    assert_eq!(whole.raw(), stream.as_bytes());
    let bytewise = split(stream.as_bytes().chunks(1));
    assert_eq!((&bytewise.events, &bytewise.left), (&whole.events, &whole.left), "{stream:?} a byte at a time");
}

#[test]
fn lines_end_in_any_of_three_ways() {
    for end in ["\n", "\r\n", "\r"] {
        let stream = ["event: ping", "data: {}", "", "data: 2", "", ""].join(end);
        check(&stream, &[(Some("ping"), "{}"), (None, "2")]);
    }
    check("data: 1\r\n\ndata: 2\n\r\ndata: 3\r\rdata: 4\n\n", &[(None, "1"), (None, "2"), (None, "3"), (None, "4")]);
}

#[test]
fn fields_are_read_as_the_standard_says() {
    check("data:no space\n\n", &[(None, "no space")]);
    check("data:  two\n\n", &[(None, " two")]);
    check("data\n\n", &[(None, "")]);
    check("data: a\ndata:\ndata: b\ndata: c\n\n", &[(None, "a\n\nb\nc")]);
    check("datum: x\nid: 7\nretry: 10\nevent: e\n\n", &[]);
    check(": comment\n\ndata: x\n: within\n\n", &[(None, "x")]);
    check("\n\n\ndata: x\n\n", &[(None, "x")]);
    check("event: a\nevent: b\ndata: x\n\n", &[(Some("b"), "x")]);
}

#[test]
fn a_byte_order_mark_belongs_to_the_first_line_only() {
    check("\u{FEFF}data: x\n\ndata: y\n\n", &[(None, "x"), (None, "y")]);
    check("data: x\n\n\u{FEFF}data: y\n\n", &[(None, "x")]);
    check("\u{FEFF}\ndata: x\n\n", &[(None, "x")]);
    check("\u{FEFE}data: x\n\n", &[]);
    assert_eq!(split([b"\xEF\ndata: x\n\n".as_slice()]).events.len(), 1, "a part of a mark is a line like another");
}

#[test]
fn comments_come_out_where_they_stood() {
    let split = split([b": keep-alive\n\ndata: x\n\n: bye\n\n".as_slice()]);
    let raw: Vec<&[u8]> = split.events.iter().map(|event| event.raw().as_ref()).collect();
    assert_eq!(raw, [b": keep-alive\n\n".as_slice(), b"data: x\n\n", b": bye\n\n"]);
    assert_eq!(split.events[0].data(), None);
    assert_eq!(split.left, None);
}

#[test]
fn an_event_keeps_the_whole_of_its_last_line_break() {
    let events = split([b"data: x\r\n\r".as_slice(), b"\ndata: y\r\n\r\n"]).events;
    assert_eq!(events[0].raw().as_ref(), b"data: x\r\n\r\n");
    assert_eq!(events[1].raw().as_ref(), b"data: y\r\n\r\n");
}

#[test]
fn a_stream_of_bare_returns_is_not_held_back_by_an_event() {
    let mut splitter = SseSplitter::new(EVENT_BYTES_MAX);
    splitter.push(Bytes::from_static(b"data: x\r\r"));
    let event = splitter.next_event().expect("small").expect("it is whole, whatever comes");
    assert_eq!(event.data(), Some(b"x".as_slice()));
}

#[test]
fn what_is_left_at_the_end_is_said() {
    assert_eq!(split([b"data: x\n\n".as_slice()]).left, None);
    for unfinished in ["data: x", "data: x\n", "data: x\r", "data: x\r\n"] {
        let left = split([b"data: w\n\n".as_slice(), unfinished.as_bytes()]).left;
        assert_eq!(left, Some(Left::Unfinished(Bytes::from(unfinished))));
    }
    let Some(Left::Event(event)) = split([b"data: x\r\n\r".as_slice()]).left else { panic!("the event is whole") };
    assert_eq!(event.data(), Some(b"x".as_slice()));
}

#[test]
fn an_event_in_one_chunk_is_not_copied() {
    let chunk = Bytes::from_static(b"data: first\n\nevent: e\ndata: second\n\n");
    let mut splitter = SseSplitter::new(EVENT_BYTES_MAX);
    splitter.push(chunk.clone());
    while let Some(event) = splitter.next_event().expect("small") {
        assert!(chunk.as_ptr_range().contains(&event.raw().as_ptr()));
    }
}

#[test]
fn an_event_that_is_too_large_ends_it_however_it_comes() {
    let stream = [b"data: ok\n\ndata: ".as_slice(), &[b'x'; 100], b"\n\n"].concat();
    for size in [1, 7, 64, stream.len()] {
        let mut splitter = SseSplitter::new(64);
        let (mut whole, mut fault) = (0, None);
        'chunks: for chunk in stream.chunks(size) {
            splitter.push(Bytes::copy_from_slice(chunk));
            loop {
                match splitter.next_event() {
                    Ok(Some(_)) => whole += 1,
                    Ok(None) => break,
                    Err(error) => {
                        fault = Some(error);
                        break 'chunks;
                    }
                }
            }
        }
        assert_eq!((whole, fault), (1, Some(Fault::TooLarge)), "in chunks of {size}");
        assert_eq!(splitter.next_event(), Err(Fault::TooLarge), "it stays so");
    }
}

#[test]
fn chunks_pushed_together_are_read_as_one() {
    let mut splitter = SseSplitter::new(EVENT_BYTES_MAX);
    splitter.push(Bytes::from_static(b"data: x\n"));
    splitter.push(Bytes::from_static(b"\ndata: y\n\n"));
    let mut data = Vec::new();
    while let Some(event) = splitter.next_event().expect("small") {
        data.extend(event.data().map(<[u8]>::to_vec));
    }
    assert_eq!(data, [b"x", b"y"]);
}

/// Pieces of which odd streams are made.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n\n".to_vec()),
        Just(b"\r\n\r\n".to_vec()),
        Just(b"data: ".to_vec()),
        Just(b"data:".to_vec()),
        Just(b"event: delta".to_vec()),
        Just(b": comment".to_vec()),
        Just(b"\xEF\xBB\xBF".to_vec()),
        Just("{\"text\":\"\u{1F600}\u{E9}\"}".as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..5),
    ]
}

/// What the standard says of a stream, line by line: the slow way to the same events.
fn told_by_the_standard(stream: &[u8]) -> Vec<(Option<Vec<u8>>, Vec<u8>)> {
    let stream = stream.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(stream);
    let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
    let mut bytes = stream.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' => {
                bytes.next_if_eq(&b'\n');
                lines.push(Vec::new());
            }
            b'\n' => lines.push(Vec::new()),
            byte => lines.last_mut().expect("there is a line").push(byte),
        }
    }
    // What has no end is no line yet.
    lines.pop();
    let (mut events, mut name, mut data): (_, _, Option<Vec<u8>>) = (Vec::new(), None, None);
    for line in lines {
        if line.is_empty() {
            let name = name.take();
            events.extend(data.take().map(|data| (name, data)));
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (field, value) = colon.map_or((line.as_slice(), [].as_slice()), |at| (&line[..at], &line[at + 1..]));
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => name = Some(value.to_vec()),
            b"data" => {
                data = Some(match data {
                    Some(before) => [&before, b"\n".as_slice(), value].concat(),
                    None => value.to_vec(),
                });
            }
            _ => {}
        }
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn any_cutting_gives_the_same_events_and_every_byte(
        pieces in proptest::collection::vec(piece(), 0..40),
        cuts in proptest::collection::vec(1_usize..9, 1..60),
    ) {
        let stream: Vec<u8> = pieces.concat();
        let whole = split([stream.as_slice()]);
        prop_assert_eq!(whole.raw(), stream.clone());
        let (mut rest, mut chunks, mut cuts) = (stream.as_slice(), Vec::new(), cuts.iter().cycle());
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at((*cuts.next().expect("it cycles")).min(rest.len()));
            chunks.push(chunk);
            rest = after;
        }
        let cut = split(chunks);
        prop_assert_eq!(&cut.events, &whole.events);
        prop_assert_eq!(&cut.left, &whole.left);
        let last = match &whole.left { Some(Left::Event(event)) => Some(event), _ => None };
        let told: Vec<_> = whole.events.iter().chain(last)
            .filter_map(|event| Some((event.name().map(<[u8]>::to_vec), event.data()?.to_vec()))).collect();
        prop_assert_eq!(told, told_by_the_standard(&stream));
    }
}
